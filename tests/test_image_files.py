"""Lists of images, .csv, and arrays of them, .npz, are written as users have them, and read back."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from contrastive.cli import main
from contrastive.data.images import ImageData, open_images, read_images
from contrastive.errors import ContrastiveError
from contrastive.evaluation.protocol import Protocol
from contrastive.evaluation.tasks import read_task
from contrastive.features import FrozenEncoder
from encoders.image import SmallCNN

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    return image


# --- .csv ---


def write_csv(file, rows, header=("path", "label", "split")):
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(file)


def test_csv_with_splits(tmp_path):
    images = [picture(tmp_path / "pictures" / f"{i}.png", i) for i in range(4)]
    splits, labels = ("train", "train", "val", "train"), ("dog", "cat", "dog", "")
    rows = [(f"pictures/{i}.png", labels[i], splits[i]) for i in range(4)]
    source = write_csv(tmp_path / "list.csv", rows)
    train, test = read_images(source, "train"), read_images(source, "test")
    np.testing.assert_array_equal(train.images.permute(0, 2, 3, 1), np.stack([images[i] for i in (0, 1, 3)]))
    assert train.classes == test.classes == ["cat", "dog"]
    assert train.labels.tolist() == [1, 0, -1] and test.labels.tolist() == [1]
    assert len(train.labelled()) == 2


def test_csv_without_labels_and_splits_is_for_training(tmp_path):
    for i in range(10):
        picture(tmp_path / f"{i}.png", i)
    source = write_csv(tmp_path / "list.csv", [(f"{i}.png",) for i in range(10)], ("path",))
    train, whole = read_images(source, "train"), read_images(source, "all")
    assert train.labels is None and train.paths == whole.paths == [tmp_path / f"{i}.png" for i in range(10)]
    with pytest.raises(ContrastiveError, match="no test split: all are for training"):
        read_images(source, "test")


def test_all_of_a_source_is_in_its_order_or_its_splits_one_after_another(tmp_path):
    for i in range(10):
        picture(tmp_path / f"{i}.png", i)
    rows = [(f"{i}.png", "ab"[i % 2]) for i in range(10)]
    whole = read_images(write_csv(tmp_path / "pool.csv", rows, ("path", "label")), "all")
    assert whole.labels.tolist() == [i % 2 for i in range(10)] and len(whole.images) == 10
    splits = ("test", "train", "val", "train", "test") * 2
    split_rows = [(*row, split) for row, split in zip(rows, splits)]
    whole = read_images(write_csv(tmp_path / "split.csv", split_rows), "all")
    assert [path.name for path in whole.paths] == [f"{i}.png" for i in range(10)]  # val too
    for split, name in (("train", "b"), ("train", "a"), ("test", "a"), ("test", "b")):
        picture(tmp_path / "folders" / split / name / f"{split}{name}.png", 0)
    whole = read_images(str(tmp_path / "folders"), "all")
    assert [path.stem for path in whole.paths] == ["traina", "trainb", "testa", "testb"]
    assert whole.labels.tolist() == [0, 1, 0, 1]
    for split in ("train", "test"):  # a class in one split alone, and a flat one, whose classes are not known
        picture(tmp_path / "folders" / split / f"only{split}" / "0.png", 0)
    whole = read_images(str(tmp_path / "folders"), "all")
    assert whole.classes == ["a", "b", "onlytest", "onlytrain"] and whole.labels.tolist() == [
        0,
        1,
        3,
        0,
        1,
        2,
    ]
    shutil.rmtree(tmp_path / "folders" / "test")
    assert len(read_images(str(tmp_path / "folders"), "all")) == 3
    picture(tmp_path / "folders" / "test" / "0.png", 0)
    assert read_images(str(tmp_path / "folders"), "all").labels.tolist() == [0, 1, 2, -1]
    images = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    np.savez(tmp_path / "train.npz", train_images=images)
    assert len(read_images(str(tmp_path / "train.npz"), "all")) == 3
    arrays = {"train_images": images[1:], "train_labels": [1, 0], "test_images": images[:1]}
    np.savez(tmp_path / "m.npz", **arrays, test_labels=[1])
    whole = read_images(str(tmp_path / "m.npz"), "all")
    np.testing.assert_array_equal(whole.images[:, 0], images[[1, 2, 0]])
    assert whole.labels.tolist() == [1, 0, 1]
    targets = {"train_labels": np.eye(2, 3, dtype=np.float32), "test_labels": np.ones((1, 3), np.float32)}
    np.savez(tmp_path / "t.npz", **arrays | targets)
    assert read_images(str(tmp_path / "t.npz"), "all").labels.tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 1]]
    np.savez(tmp_path / "t.npz", **arrays | targets | {"test_labels": np.ones((1, 2), np.float32)})
    assert read_images(str(tmp_path / "t.npz"), "all").labels is None  # not the same targets


NO_LABELS = ("nan", "NaN")  # blanks that another program wrote: refused
LABELS = st.lists(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8).filter(
        lambda label: label.strip() not in NO_LABELS
    ),
    min_size=1,
    max_size=12,
)


@given(labels=LABELS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_keeps_any_label(labels, tmp_path):
    """But for the blanks around it."""
    picture(tmp_path / "0.png")
    source = write_csv(tmp_path / "any.csv", [("0.png", label, "train") for label in labels])
    images = open_images(source, "train")
    read = [images.classes[i] if i >= 0 else "" for i in images.labels.tolist()]
    assert read == [label.strip() for label in labels]


@pytest.mark.parametrize("label", NO_LABELS)
def test_csv_refuses_what_stands_for_no_label(label, tmp_path):
    picture(tmp_path / "0.png")
    source = write_csv(tmp_path / "any.csv", [("0.png", "cat", "train"), ("0.png", label, "train")])
    with pytest.raises(ContrastiveError, match=f"line 3: label is {label}; leave it empty"):
        open_images(source, "train")


@pytest.mark.parametrize(
    "content,message",
    [
        (b"file,label\na.png,cat\n", "no column path; its columns are file, label"),
        (b"path,label\n", "lists no image"),
        (b"", "no column path"),
        ("path,label\na.png,caf\xe9\n".encode("latin-1"), "is not UTF-8"),
        (b"path,label\nnowhere.png,cat\n", "line 2: there is no image"),
        (
            b"path,label,split\na.png,cat,trian\n",
            "line 2: split is 'trian'; expected one of train, test, val, valid, validation",
        ),
        (b"path,label\na.png\n", "line 2: expected 2 fields"),
        (b"path,label\na.png,cat,4\n", "line 2: expected 2 fields"),
        (b'path,label\n"a.png,cat\n', "line 2: unexpected end of data; a field that begins"),
        (b"path,split\na.png,test\n", "no image whose split is train"),
        (b"path,label,label\na.png,cat,dog\n", "the column label more than once"),
    ],
)
def test_csv_says_what_is_wrong(content, message, tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ContrastiveError, match=message):
        read_images(str(tmp_path / "list.csv"), "train")


def test_blanks_around_names_and_labels_are_none_of_theirs(tmp_path, caplog):
    picture(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path, label, split\na.png, cat, train\na.png,cat,train\n")
    images = open_images(str(tmp_path / "list.csv"), "train")
    assert images.classes == ["cat"] and images.labels.tolist() == [0, 0] and not caplog.text
    (tmp_path / "list.csv").write_text("path,labels\na.png,cat\n")
    assert open_images(str(tmp_path / "list.csv"), "train").labels is None
    assert "read without labels: none of its columns is called label: path, labels" in caplog.text


def test_unlabelled_images_are_pretrained_on_and_left_out_of_evaluations(tmp_path):
    images, labels = load_digits(return_X_y=True)
    rows = []
    for i in range(600):
        Image.fromarray((images[i].reshape(8, 8) * 15).astype(np.uint8)).save(tmp_path / f"{i}.png")
        rows.append((f"{i}.png", "" if i % 2 else labels[i], "train" if i < 450 else "test"))
    run = str(tmp_path / "run")
    args = ["--config", "configs/image/simclr_digits.yaml", "--run_dir", run, "--wandb", "off"]
    args += ["--data.init_args.source", write_csv(tmp_path / "list.csv", rows)]
    args += ["--data.init_args.channels", "1", "--data.init_args.batch_size", "64"]
    args += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    assert main(["pretrain", *args]) == 0
    metrics = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    online = [float(row["knn_accuracy"]) for row in metrics if row["knn_accuracy"]]
    # of the 225 that have a label 23 are set aside, and none of the others
    assert len(online) == 2 and all(abs(x * 23 - round(x * 23)) < 1e-6 for x in online)
    assert main(["probe", run]) == 0
    result = json.loads((tmp_path / "run" / "results" / "probe.json").read_text())
    assert result["task"]["first_draw"]["test"] == 75


def test_images_without_a_label_are_all_pretrained_on(tmp_path):
    for i in range(100):
        picture(tmp_path / f"{i}.png", i)
    rows = [(f"{i}.png", ["cat", "dog"][i % 2] if i < 20 else "") for i in range(100)]
    source = write_csv(tmp_path / "list.csv", rows, header=("path", "label"))
    data = ImageData(source, val_fraction=0.5, batch_size=2)
    data.setup()
    assert (len(data.train), len(data.val)) == (80 + 7, 7) and (data.val.labels >= 0).all()
    assert (data.train.labels == -1).sum() == 80
    assert read_images(source, "test").labels.bincount().tolist() == [3, 3]


def test_a_label_that_is_not_known_is_none_in_an_npz_too(tmp_path):
    y = np.array([[0], [-1], [1]])
    np.savez(tmp_path / "m.npz", train_images=pixels(3, 8, 8), train_labels=y)
    images = read_images(str(tmp_path / "m.npz"), "all")
    assert images.labels.tolist() == [0, -1, 1] and len(images.labelled()) == 2


def test_a_table_whose_labels_are_all_blank_has_no_probe(tmp_path):
    for i in range(4):
        picture(tmp_path / f"{i}.png", i)
    encoder = FrozenEncoder(SmallCNN(in_channels=3), nn.Identity())
    cases = {"": ["", "", "", ""], " in its test split": ["a", "", "b", ""]}
    for where, labels in cases.items():
        rows = [(f"{i}.png", labels[i], ["train", "test"][i % 2]) for i in range(4)]
        with pytest.raises(ContrastiveError, match=f"has no labels{where}: a probe needs"):
            read_task(encoder, Protocol(write_csv(tmp_path / "list.csv", rows)))


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_validation_part_is_known_by_each_of_its_names(name, tmp_path):
    """It is the test split where there is no other."""
    for i, split in enumerate(("train", name, "test")):
        picture(tmp_path / "folders" / split / "cat" / f"{i}.png", i)
    folders = str(tmp_path / "folders")
    rows = [(f"folders/{split}/cat/{i}.png", "cat", split) for i, split in enumerate(("train", name, "test"))]
    images = {split: pixels(1, 8, 8) for split in ("train", name, "test")}
    arrays = {f"{split}_images": array for split, array in images.items()}

    def paths(source, split):
        return [path.name for path in open_images(source, split).paths]

    listed = write_csv(tmp_path / "list.csv", rows)
    np.savez(tmp_path / "i.npz", **arrays)
    assert paths(folders, "test") == paths(listed, "test") == ["2.png"] and paths(folders, "all") == [
        "0.png",
        "2.png",
    ]
    np.testing.assert_array_equal(read_images(str(tmp_path / "i.npz"), "test").images[:, 0], images["test"])
    shutil.rmtree(tmp_path / "folders" / "test")
    listed = write_csv(tmp_path / "list.csv", rows[:2])
    np.savez(tmp_path / "i.npz", **{key: array for key, array in arrays.items() if "test" not in key})
    assert paths(folders, "test") == paths(listed, "test") == ["1.png"] and paths(folders, "all") == [
        "0.png",
        "1.png",
    ]
    np.testing.assert_array_equal(read_images(str(tmp_path / "i.npz"), "test").images[:, 0], images[name])


@pytest.mark.parametrize("names", [("Train", "Test"), ("valid", "test"), ("training", "testing")])
def test_folders_that_are_called_like_splits_are_not_taken_for_classes(names, tmp_path):
    for name in names:
        picture(tmp_path / "data" / name / "0.png")
    message = f"data has the folders {', '.join(sorted(names))}, which would be read as classes; name those"
    with pytest.raises(ContrastiveError, match=message):
        open_images(str(tmp_path / "data"), "train")


# --- .npz ---


def test_classes_of_an_npz_are_those_of_all_splits(tmp_path):
    arrays = {"train_images": pixels(3, 8, 8), "train_labels": [0, 2, 1]}
    np.savez(tmp_path / "m.npz", **arrays, test_images=pixels(2, 8, 8), test_labels=[1, 0])
    for split, labels in (("train", [0, 2, 1]), ("test", [1, 0]), ("all", [0, 2, 1, 1, 0])):
        images = read_images(str(tmp_path / "m.npz"), split)
        assert images.classes == ["0", "1", "2"] and images.labels.tolist() == labels
    np.savez(tmp_path / "m.npz", **arrays, test_images=pixels(2, 8, 8), test_labels=[1, 10**12])
    with pytest.raises(ContrastiveError, match="a label of another split is 1000000000000; number classes"):
        read_images(str(tmp_path / "m.npz"), "train")


def test_npz_of_medmnists_keys(tmp_path):
    stored = {
        "train_images": pixels(6, 28, 28),
        "train_labels": np.arange(6, dtype=np.uint8)[:, None] % 3,
        "val_images": pixels(2, 28, 28),
        "val_labels": np.zeros((2, 1), np.uint8),
        "test_images": pixels(3, 28, 28),
        "test_labels": np.array([[2], [0], [1]]),
    }
    np.savez_compressed(tmp_path / "mnist.npz", **stored)
    for split in ("train", "test"):
        images = read_images(str(tmp_path / "mnist.npz"), split)
        np.testing.assert_array_equal(images.images[:, 0], stored[f"{split}_images"])
        np.testing.assert_array_equal(images.labels, stored[f"{split}_labels"][:, 0])
        assert (images.classes, images.channels, images.image_size) == (["0", "1", "2"], 1, 28)
    colour = read_images(str(tmp_path / "mnist.npz"), "train", channels=3, image_size=14)
    assert colour.images.shape == (6, 3, 14, 14) and torch.equal(colour.images[:, 0], colour.images[:, 2])


def test_npz_in_colour_with_several_findings_an_image(tmp_path):
    images = pixels(5, 9, 9, 3)
    np.savez(tmp_path / "c.npz", train_images=images, train_labels=np.eye(5, 14, dtype=np.int64))
    read = read_images(str(tmp_path / "c.npz"), "train")
    np.testing.assert_array_equal(read.images.permute(0, 2, 3, 1), images)
    np.testing.assert_array_equal(read.labels, np.eye(5, 14))
    assert len(read.classes) == 14 and read.channels == 3


@pytest.mark.parametrize(
    "arrays,message",
    [
        ({"images": pixels(2, 4, 4)}, "no array train_images; it holds images"),
        ({"train_images": pixels(2, 4, 4).astype(np.float32)}, r"float32 of \(2, 4, 4\); expected uint8"),
        ({"train_images": pixels(2, 4, 4, 7)}, r"uint8 of \(2, 4, 4, 7\)"),
        ({"train_images": pixels(2, 4, 4), "train_labels": np.zeros(3, int)}, "expected 2 numbers"),
        ({"train_images": np.array([{}, 1], dtype=object)}, "plain arrays"),
    ],
)
def test_npz_says_what_is_wrong(arrays, message, tmp_path):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ContrastiveError, match=message):
        read_images(str(tmp_path / "bad.npz"), "train")


@given(content=st.binary(max_size=200), cut=st.integers(0, 400))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_npz_is_refused(content, cut, tmp_path):
    whole = io.BytesIO()
    np.savez(whole, train_images=pixels(2, 4, 4))
    for damaged in (content, whole.getvalue()[: min(cut, len(whole.getvalue()) - 1)]):
        (tmp_path / "bad.npz").write_bytes(damaged)
        with pytest.raises(ContrastiveError, match="bad.npz"):
            read_images(str(tmp_path / "bad.npz"), "train")
