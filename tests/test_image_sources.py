"""Each kind of source is written as its users have it, and read back pixel for pixel."""

import hashlib
import pickle
import sys

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


def saved(folder, num, **splits):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    made, arrays = {}, {}
    for name in splits:
        arrays[name] = pixels(num, 8, 8, 3)
        rows = {
            "id": list(range(num)),
            "picture": [Image.fromarray(image) for image in arrays[name]],
            "kind": [i % 2 for i in range(num)],
        }
        made[name] = datasets.Dataset.from_dict(rows, features=features)
    whole = datasets.DatasetDict(made) if "" not in splits else made[""]
    whole.save_to_disk(str(folder))
    return arrays


def test_a_saved_dataset_of_hugging_face(tmp_path):
    arrays = saved(tmp_path / "hf", 6, train=True, validation=True)
    for split, name in (("train", "train"), ("test", "validation")):
        images = read_images(str(tmp_path / "hf"), split)
        np.testing.assert_array_equal(images.images.permute(0, 2, 3, 1), arrays[name])
        assert images.classes == ["a", "b"] and images.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_saved_dataset_without_splits_is_held_out_in_part(tmp_path):
    saved(tmp_path / "hf", 10, **{"": True})
    assert [len(read_images(str(tmp_path / "hf"), split)) for split in ("train", "test")] == [7, 3]


def test_a_dataset_without_images_is_refused(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a"] * 9}).save_to_disk(str(tmp_path / "hf"))
    with pytest.raises(ContrastiveError, match=r"no column of type Image; its columns are text \(Value\)"):
        read_images(str(tmp_path / "hf"), "train")


def test_the_hub_is_not_asked_unasked(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    with pytest.raises(ContrastiveError, match=r"hf:nobody/nothing cannot be opened.*download=true"):
        read_images("hf:nobody/nothing", "train")


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
