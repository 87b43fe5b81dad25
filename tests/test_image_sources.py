"""Each kind of source is written as its users have it, and read back pixel for pixel."""

import hashlib
import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR100, STL10

from contrastive.data.image_litdata import open_litdata
from contrastive.data.image_shards import find_shards
from contrastive.data.images import ImageData, open_images, read_images
from contrastive.errors import ContrastiveError

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


# --- Hugging Face ---


def hugging_face():
    reason = "needs the extra: pip install contrastive-pretraining[huggingface]"
    return pytest.importorskip("datasets", reason=reason)


def rows_of(arrays, kind=None, labels=None):
    """A data set of arrays or of {bytes, path} with a class each: a ClassLabel, or what is given."""
    datasets = hugging_face()
    features = {"picture": datasets.Image(), "label": kind or datasets.ClassLabel(names=["a", "b"])}
    pictures = [Image.fromarray(a) if isinstance(a, np.ndarray) else a for a in arrays]
    labels = [i % 2 for i in range(len(arrays))] if labels is None else labels
    return datasets.Dataset.from_dict(
        {"picture": pictures, "label": labels}, features=datasets.Features(features)
    )


def saved(folder, dataset=None, **splits):
    """What ``save_to_disk`` writes of a data set, or of splits of several."""
    (dataset or hugging_face().DatasetDict(splits)).save_to_disk(str(folder))
    return str(folder)


def encoded(array, kind="png"):
    with io.BytesIO() as stream:
        Image.fromarray(array).save(stream, kind)
        return {"bytes": stream.getvalue(), "path": None}


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_a_saved_dataset_of_hugging_face_has_a_split_to_test_on(tmp_path, name):
    train, test = pixels(6, 8, 8, 3), pixels(4, 8, 8, 3)
    source = saved(tmp_path / "hf", **{"train": rows_of(train), name: rows_of(test)})
    both = np.concatenate([train, test])
    for split, wanted in (("train", train), ("test", test), ("all", both)):
        images = read_images(source, split)
        np.testing.assert_array_equal(images.images.permute(0, 2, 3, 1), wanted)
        assert images.classes == ["a", "b"] and images.labels.tolist() == [0, 1] * (len(wanted) // 2)


def test_of_a_dataset_with_a_test_and_a_validation_split_the_test_split_is_it(tmp_path):
    parts = {name: rows_of(pixels(n, 8, 8, 3)) for name, n in (("train", 6), ("validation", 3), ("test", 4))}
    assert len(read_images(saved(tmp_path / "hf", **parts), "test")) == 4


def test_a_saved_dataset_without_splits_is_held_out_in_part(tmp_path):
    source = saved(tmp_path / "hf", rows_of(pixels(10, 8, 8, 3)))
    assert [len(read_images(source, split)) for split in ("train", "test", "all")] == [7, 3, 10]


def test_a_saved_dataset_of_a_test_split_alone_is_read_and_not_trained_on(tmp_path):
    source = saved(tmp_path / "hf", test=rows_of(pixels(4, 8, 8, 3)))
    assert len(read_images(source, "test")) == len(read_images(source, "all")) == 4
    with pytest.raises(ContrastiveError, match="no split named train; its splits are test"):
        read_images(source, "train")


def test_classes_of_hugging_face_are_a_classlabel_or_a_column_called_label(tmp_path):
    value = hugging_face().Value
    cases = {
        "none": (None, [0, None, 1, -1], ["a", "b"], [0, -1, 1, -1]),
        "words": (value("string"), ["cat", "dog", None, ""], ["cat", "dog"], [0, 1, -1, -1]),
        "numbers": (value("int32"), [10, 9, -1, 10], ["9", "10"], [1, 0, -1, 1]),
    }
    for name, (kind, given, classes, labels) in cases.items():
        rows = rows_of(pixels(4, 8, 8, 3), kind, given)
        images = read_images(saved(tmp_path / name, rows), "all")
        assert (images.classes, images.labels.tolist()) == (classes, labels), name


def test_classes_of_hugging_face_are_those_of_all_splits(tmp_path):
    words = hugging_face().Value("string")
    parts = {"train": ["b", "a", "c"], "test": ["c", "a", "a"]}
    rows = {name: rows_of(pixels(3, 8, 8, 3), words, given) for name, given in parts.items()}
    test = read_images(saved(tmp_path / "hf", **rows), "test")
    assert test.classes == ["a", "b", "c"] and test.labels.tolist() == [2, 0, 0]


def test_labels_of_hugging_face_that_are_no_classes_are_said_to_be_left(tmp_path, caplog):
    rows = rows_of(pixels(4, 8, 8, 3), hugging_face().Value("float32"))
    assert read_images(saved(tmp_path / "hf", rows), "train").labels is None
    assert "is read without labels: its columns are picture, label" in caplog.text


def redescribe(source, column, feature):
    """Write another type of a column than it was saved with, as a stranger can."""
    described = Path(source) / "dataset_info.json"
    content = json.loads(described.read_text())
    content["features"][column] = feature
    described.write_text(json.dumps(content))


def test_a_class_of_hugging_face_beyond_its_names_is_refused(tmp_path):
    source = saved(tmp_path / "hf", rows_of(pixels(4, 8, 8, 3)))
    redescribe(source, "label", {"names": ["a"], "_type": "ClassLabel"})
    with pytest.raises(ContrastiveError, match=r"hf: label of row 1 is 1, of 1 classes"):
        read_images(source, "train")


@pytest.mark.parametrize("first", [b"no image", None])
def test_a_corrupt_image_of_hugging_face_is_named_or_passed_over_also_the_first(tmp_path, first):
    images = [encoded(array) for array in pixels(4, 8, 8, 3)]
    images[0] = first and {"bytes": first, "path": None}
    source = saved(tmp_path / "hf", rows_of(images))
    with pytest.raises(
        ContrastiveError, match=r"image 0 of .*hf is not a readable image \((it is none|the data)"
    ):
        read_images(source, "all")
    assert len(read_images(source, "all", skip_corrupt=True)) == 3


def test_a_dataset_of_hugging_face_in_the_format_of_torch_and_not_to_be_decoded(tmp_path):
    arrays = pixels(4, 8, 8, 3)
    rows = rows_of(arrays).cast_column("picture", hugging_face().Image(decode=False)).with_format("torch")
    images = read_images(saved(tmp_path / "hf", rows), "all")
    np.testing.assert_array_equal(images.images.permute(0, 2, 3, 1), arrays)
    assert images.labels.tolist() == [0, 1, 0, 1]


def test_images_of_hugging_face_are_decoded_by_us_alone(tmp_path, monkeypatch):
    """Its own decoder runs Ghostscript for PostScript, and fetches what a path names."""
    script = saved(tmp_path / "script", rows_of([encoded(pixels(8, 8, 3), "eps")] * 4))
    text = hugging_face().Value("string")
    elsewhere = rows_of(pixels(4, 8, 8, 3)).remove_columns("picture")
    elsewhere = elsewhere.add_column("picture", [{"bytes": None, "path": "https://localhost/a.png"}] * 4)
    elsewhere = elsewhere.cast_column("picture", {"bytes": hugging_face().Value("binary"), "path": text})
    fetched = saved(tmp_path / "fetched", elsewhere)
    redescribe(fetched, "picture", {"_type": "Image"})
    used = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: used.append("ran"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: used.append("asked"))
    for source in (script, fetched):
        with pytest.raises(ContrastiveError, match="it is none of JPEG|there is no file https://localhost"):
            read_images(source, "train", image_size=8)
    assert used == []


def test_a_folder_of_parquet_files_is_read_as_the_hub_would_hold_it(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face().config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    arrays = {"train": pixels(6, 8, 8, 3), "validation": pixels(4, 8, 8, 3)}
    for name, array in arrays.items():
        (tmp_path / "set").mkdir(exist_ok=True)
        rows_of(array).to_parquet(str(tmp_path / "set" / f"{name}-00000-of-00001.parquet"))
    for split, name in (("train", "train"), ("test", "validation")):
        images = read_images(f"hf:{tmp_path / 'set'}", split)
        np.testing.assert_array_equal(images.images.permute(0, 2, 3, 1), arrays[name])


def test_a_dataset_without_images_is_refused(tmp_path):
    rows = hugging_face().Dataset.from_dict({"text": ["a"] * 9})
    with pytest.raises(ContrastiveError, match=r"no column of type Image; its columns are text \(Value\)"):
        read_images(saved(tmp_path / "hf", rows), "train")


def test_the_hub_is_not_asked_unasked(monkeypatch):
    hugging_face()
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: asked.append(args))
    with pytest.raises(ContrastiveError, match=r"hf:nobody/nothing cannot be opened.*download=true"):
        read_images("hf:nobody/nothing", "train")
    assert asked == []


@pytest.mark.parametrize(
    "package,act",
    [
        ("datasets", lambda: open_images("hf:owner/name", "train")),
        ("webdataset", lambda: find_shards("train-{0..3}.tar")),
        ("litdata", lambda: open_litdata("folder")),
    ],
)
def test_a_missing_extra_is_named_with_its_command(package, act, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself does to forbid an import
    with pytest.raises(ContrastiveError, match=f"pip install {package}"):
        act()


# --- torchvision ---


def test_stl10_is_pretrained_on_with_its_unlabelled_images(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    written = {
        "train": pixels(20, 3, 96, 96),
        "unlabeled": pixels(5, 3, 96, 96),
        "test": pixels(4, 3, 96, 96),
    }
    for name, images in written.items():
        (folder / f"{name}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        if name != "unlabeled":
            labels = (np.arange(len(images)) % 10 + 1).astype(np.uint8)
            (folder / f"{name}_y.bin").write_bytes(labels.tobytes())
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    (folder / "fold_indices.txt").write_text("0 1\n" * 10)
    for name in ("train_list", "test_list"):  # torchvision knows its files by their sums
        listed = [[file, _md5(folder / file)] for file, _ in getattr(STL10, name)]
        monkeypatch.setattr(STL10, name, listed)
    source = f"STL10:{tmp_path}"
    images = read_images(source, "train", unlabelled=True)
    np.testing.assert_array_equal(images.images, np.concatenate([written["train"], written["unlabeled"]]))
    assert images.labels.tolist() == [i % 10 for i in range(20)] + [-1] * 5
    assert len(read_images(source, "train")) == len(images.labelled()) == 20
    assert len(read_images(source, "test", unlabelled=True)) == 4
    assert len(read_images(source, "all", unlabelled=True)) == 29
    data = ImageData(source, unlabelled=True, batch_size=4, val_fraction=0.5)
    data.setup()
    assert len(data.train) + len(data.val) == 25


def test_cifar100_is_read_by_name(tmp_path, monkeypatch):
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    data = pixels(7, 3072)
    for name in ("train", "test"):
        content = {"data": data, "fine_labels": [3, 1, 4, 1, 5, 9, 2]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"c{i}" for i in range(100)]}))
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR100, name, [[f, _md5(folder / f)] for f, _ in getattr(CIFAR100, name)])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": _md5(folder / "meta")})
    images = read_images(f"CIFAR100:{tmp_path}", "train")
    np.testing.assert_array_equal(images.images.flatten(1), data)
    assert images.labels.tolist() == [3, 1, 4, 1, 5, 9, 2] and len(images.classes) == 100


def _md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_unlabelled_is_refused_where_there_is_no_such_split():
    with pytest.raises(ContrastiveError, match="is for STL10"):
        open_images("CIFAR10", "train", unlabelled=True)


# --- part of a training split ---


@pytest.mark.parametrize("size,num", [(100, 100), (0.1, 126), (1257, 1257), (1.0, 1257)])
def test_a_subset_is_stratified_and_moves_with_the_seed_alone(size, num):
    data = [ImageData("digits", train_subset=size, seed=seed).read("train") for seed in (0, 0, 1)]
    assert len(data[0]) == num and torch.equal(data[0].images, data[1].images)
    assert num == 1257 or not torch.equal(data[0].images, data[2].images)
    counts = data[0].labels.bincount()
    assert counts.max() - counts.min() <= max(2, num // 100)
    assert len(ImageData("digits", train_subset=size).read("test")) == 540


def test_a_subset_larger_than_the_data_is_refused():
    with pytest.raises(ContrastiveError, match="cannot draw 5000 of 1257"):
        ImageData("digits", train_subset=5000).read("train")


def test_another_split_is_not_taken_for_the_test_split():
    with pytest.raises(ContrastiveError, match="split is 'val'; give train, test"):
        read_images("digits", "val")
