import struct
import time

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from augmentations.colour import Normalize
from augmentations.image import simclr
from contrastive.data import Batch, image_dataset, split_batch
from contrastive.data.image_channels import refuse_other_channels
from contrastive.data.image_dataset import read_image
from contrastive.data.images import ImageData, open_images, read_images
from contrastive.data.loading import split_indices
from contrastive.errors import ContrastiveError
from encoders.image import SmallCNN


def save(path, size=(12, 10), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    """Two classes of ten PNGs, without splits."""
    for name in ("cat", "dog"):
        for i in range(10):
            save(tmp_path / "pets" / name / f"{i}.png", seed=i)
    return tmp_path / "pets"


def test_digits_are_scikit_learns():
    train, test = read_images("digits", "train"), read_images("digits", "test")
    assert (len(train), len(test)) == (1257, 540) and train.images.dtype == torch.uint8
    theirs = {tuple(image.flatten()) for image in (load_digits().images * 255 / 16).round().astype(int)}
    assert {tuple(image.flatten().tolist()) for image in test.images} <= theirs
    assert (test.labels.bincount() - 54).abs().max() <= 2  # stratified


def test_train_and_test_of_a_pool_share_nothing_and_do_not_move():
    train, test = (read_images("digits", split).images.flatten(1) for split in ("train", "test"))
    assert torch.equal(read_images("digits", "test").images.flatten(1), test)
    theirs = load_digits().images.reshape(len(train) + len(test), -1)
    assert np.isclose(theirs.sum() * 255 / 16, float(train.sum() + test.sum()), rtol=1e-3)


@given(st.integers(2, 500), st.floats(0.05, 0.9), st.integers(0, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_a_split_keeps_every_item_once(num_items, held_out, seed, data):
    labels = None
    if data.draw(st.booleans()):
        labels = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=num_items, max_size=num_items)))
    try:
        kept, held = split_indices(num_items, labels, held_out, seed)
    except ContrastiveError as error:
        assert f"of {num_items} items" in str(error)
        return
    assert sorted([*kept, *held]) == list(range(num_items))


def test_a_folder_of_classes_is_read_pixel_for_pixel(folder):
    pixels = save(folder / "cat" / "square.png", size=(10, 10), seed=99)
    image = read_image(folder / "cat" / "square.png", 10, 3)
    np.testing.assert_array_equal(image.permute(1, 2, 0), pixels)
    data = read_images(str(folder), "train", image_size=10)
    assert data.classes == ["cat", "dog"] and data.images.shape[1:] == (3, 10, 10)
    assert data.labels.bincount().tolist() in ([7, 7], [8, 7], [7, 8])


def test_train_and_test_folders_are_used_where_there_are_any(folder, tmp_path):
    for split in ("train", "test"):
        save(tmp_path / "two" / split / "a" / "0.png")
        save(tmp_path / "two" / split / "b" / f"{split}.png")
    assert len(read_images(str(tmp_path / "two"), "test")) == 2
    (tmp_path / "two" / "test").rename(tmp_path / "two" / "other")
    with pytest.raises(ContrastiveError, match="none named test or val"):
        read_images(str(tmp_path / "two"), "test")


def test_a_flat_folder_has_no_labels(tmp_path):
    for i in range(10):
        save(tmp_path / "flat" / f"{i}.jpg", mode="L")
    data = read_images(str(tmp_path / "flat"), "train", channels=1)
    assert data.labels is None and data.images.shape == (10, 1, 10, 10)


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_a_photograph_is_turned_upright_as_its_exif_says(orientation, name, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation  # 9 is none
    save(tmp_path / "lies.png")
    Image.open(tmp_path / "lies.png").save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as lies:
        upright = np.array(ImageOps.exif_transpose(lies))
    assert np.array_equal(read_image(tmp_path / name, None, 3).permute(1, 2, 0), upright)


def test_an_image_whose_exif_is_damaged_is_left_as_it_lies(tmp_path):
    save(tmp_path / "a.png")
    Image.open(tmp_path / "a.png").save(tmp_path / "b.png", exif=b"Exif\0\0II nothing of the kind")
    with pytest.raises(SyntaxError):
        Image.open(tmp_path / "b.png").getexif()
    assert torch.equal(*(read_image(tmp_path / name, None, 3) for name in ("a.png", "b.png")))


def test_of_one_class_nothing_is_held_out(tmp_path):
    for i in range(10):
        save(tmp_path / "images" / f"{i}.png", seed=i)
    data = ImageData(str(tmp_path), batch_size=2)
    data.setup()
    assert (len(data.train), data.val) == (10, None)
    with pytest.raises(ContrastiveError, match=r"of one class only \(images\) have no test split"):
        read_images(str(tmp_path), "test")


def test_more_classes_than_there_is_room_for_are_split_at_random():
    labels = torch.arange(200) // 2
    kept, held = split_indices(200, labels, 0.1, 0)
    assert (len(kept), len(held)) == (180, 20)


def test_images_beside_the_folders_of_classes_are_told_of(folder, caplog):
    save(folder / "thumb.png")
    assert read_images(str(folder), "all").labels is None
    (record,) = caplog.records
    assert "is read without classes: 1 of its images, thumb.png first, lie beside its fold" in record.message


def test_hidden_files_and_folders_are_left_out(folder):
    (folder / "cat" / "._0.png").write_bytes(b"what a Mac leaves in an archive")
    save(folder / ".ipynb_checkpoints" / "0.png")
    images = read_images(str(folder), "all")
    assert len(images) == 20 and images.classes == ["cat", "dog"]


def test_links_to_folders_are_followed_and_broken_ones_told_of(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "cat").symlink_to(folder / "cat")
    (linked / "dog").symlink_to(folder / "dog")
    (folder / "cat" / "around").symlink_to(linked)  # a circle
    images = read_images(str(linked), "all")
    assert len(images) == 20 and images.classes == ["cat", "dog"]
    (folder / "cat" / "around").unlink()
    (folder / "dog" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(ContrastiveError, match="gone.png is not a readable image .* or it is a broken link"):
        read_images(str(linked), "all")


def test_an_empty_folder_and_an_unknown_source_are_named(tmp_path):
    with pytest.raises(ContrastiveError, match=f"{tmp_path} holds no image"):
        read_images(str(tmp_path), "train")
    with pytest.raises(ContrastiveError, match="'CIFAR11' is neither a folder"):
        read_images("CIFAR11", "train")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_corrupt_file_is_named_and_skipped_only_when_asked(folder, damage, caplog):
    victim = folder / "cat" / "3.png"
    content = {"truncated": victim.read_bytes()[:60], "empty": b"", "text": b"not an image"}[damage]
    victim.write_bytes(content)
    (folder / "train").mkdir()
    for name in ("cat", "dog"):
        (folder / name).rename(folder / "train" / name)
    with pytest.raises(ContrastiveError, match="cat/3.png is not a readable image"):
        read_images(str(folder), "train")
    data = read_images(str(folder), "train", skip_corrupt=True)
    assert len(data) == 19 and data.labels.bincount().tolist() == [9, 10]
    assert "skipped 1 of 20" in caplog.text


def test_the_first_corrupt_file_ends_the_reading(folder, monkeypatch):
    (folder / "cat" / "0.png").write_bytes(b"")
    read = []

    def slowly(item, *args, **options):
        read.append(item)
        time.sleep(0.1)
        return read_image(item, *args, **options)

    monkeypatch.setattr(image_dataset, "read_image", slowly)
    images = open_images(str(folder), "all")
    images.images = images.images * 10
    with pytest.raises(ContrastiveError, match="0.png is not a readable image"):
        images.cached()
    assert len(read) < len(images) / 2


def test_files_too_many_for_memory_are_read_when_asked_for(folder, monkeypatch):
    cached = read_images(str(folder), "train", image_size=8)
    monkeypatch.setattr("contrastive.data.images._CACHE_BYTES", 0)
    lazy = read_images(str(folder), "train", image_size=8)
    assert isinstance(cached.images, torch.Tensor) and not isinstance(lazy.images, torch.Tensor)
    (one,) = DataLoader(lazy, batch_size=len(lazy), num_workers=2, collate_fn=lambda batch: batch)
    assert torch.equal(one.input, cached.images) and torch.equal(one.label, cached.labels)


def test_a_corrupt_file_of_many_is_replaced_by_the_next_when_asked(folder, monkeypatch, caplog):
    monkeypatch.setattr("contrastive.data.images._CACHE_BYTES", 0)
    (folder / "cat" / "3.png").write_bytes(b"not an image")
    for name in ("train", "test"):
        (folder / name).mkdir()
    (folder / "cat").rename(folder / "train" / "cat")
    (folder / "dog").rename(folder / "train" / "dog")
    with pytest.raises(ContrastiveError, match="cat/3.png is not a readable image"):
        read_images(str(folder), "train").__getitems__([3])
    batch = read_images(str(folder), "train", skip_corrupt=True).subset(np.arange(5)).__getitems__([2, 3])
    assert batch.index.tolist() == [2, 4] and batch.input.shape == (2, 3, 10, 10)
    assert "cat/3.png" in caplog.text


def write_idx(path, array):
    """The format of MNIST's files: http://yann.lecun.com/exdb/mnist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = 8 if array.dtype == np.uint8 else 12  # integers of 32 bits
    path.write_bytes(
        bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
    )


def test_a_torchvision_set_is_read_by_name(tmp_path):
    rng, written = np.random.default_rng(0), {}
    for split, stem, num in (("train", "train", 30), ("test", "t10k", 12)):
        images = rng.integers(0, 256, (num, 28, 28), dtype=np.uint8)
        labels = (np.arange(num) % 10).astype(np.uint8)
        write_idx(tmp_path / "MNIST" / "raw" / f"{stem}-images-idx3-ubyte", images)
        write_idx(tmp_path / "MNIST" / "raw" / f"{stem}-labels-idx1-ubyte", labels)
        written[split] = images, labels
    for split, (images, labels) in written.items():
        data = read_images(f"MNIST:{tmp_path}", split, channels=1)
        np.testing.assert_array_equal(data.images[:, 0], images)
        np.testing.assert_array_equal(data.labels, labels)
        assert len(data.classes) == 10


def test_a_torchvision_set_without_test_images_is_tested_on_those_for_validation(tmp_path):
    for split, num in (("train", 2), ("val", 1)):
        for name in torchvision.datasets.Imagenette._WNID_TO_CLASS:
            for i in range(num):
                save(tmp_path / "imagenette2" / split / name / f"{i}.JPEG")
    for split, num in (("train", 20), ("test", 10), ("all", 30)):
        assert len(open_images(f"Imagenette:{tmp_path}", split)) == num


def test_of_qmnists_targets_the_class_alone_is_the_label(tmp_path):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 1000, (30, 8))
    targets[:, 0] = np.arange(30) % 10
    stem = tmp_path / "QMNIST" / "raw" / "qmnist-train"
    write_idx(stem.with_name("qmnist-train-images-idx3-ubyte"), rng.integers(0, 256, (30, 28, 28), np.uint8))
    write_idx(stem.with_name("qmnist-train-labels-idx2-int"), targets.astype(">i4"))
    data = read_images(f"QMNIST:{tmp_path}", "train", channels=1)
    assert data.labels.tolist() == targets[:, 0].tolist()


def test_a_torchvision_set_that_is_not_there_is_not_downloaded_unasked(tmp_path):
    with pytest.raises(ContrastiveError, match="download=true"):
        read_images(f"CIFAR10:{tmp_path}", "train")


def test_a_batch_larger_than_the_data_is_refused():
    data = ImageData("digits", batch_size=2000)
    with pytest.raises(ContrastiveError, match="1131 samples .* fewer than one batch of 2000"):
        data.setup()


@pytest.mark.parametrize(
    "name, value", [("channels", 2), ("image_size", 0), ("train_subset", 0), ("val_fraction", 1.0)]
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; "):
        ImageData("digits", **{name: value})


def test_validation_is_taken_from_training_alone():
    data = ImageData("digits", batch_size=64, val_fraction=0.2, seed=3)
    data.setup()
    assert len(data.train) + len(data.val) == 1257


def test_a_batch_splits_without_loss():
    batch = Batch(torch.arange(10), None, torch.arange(10) + 5)
    parts = split_batch(batch, 3)
    assert torch.equal(torch.cat([part.index for part in parts]), batch.index)
    assert [len(part.input) for part in parts] == [4, 3, 3]
    with pytest.raises(ValueError, match="10 samples cannot be split in 11"):
        split_batch(batch, 11)


class Gray(torch.nn.Module):
    """A user's own encoder, which makes what it needs of the images."""

    num_features = 1

    def forward(self, x):
        return x.mean((1, 2, 3))[:, None]


def test_channels_are_compared_with_our_parts_alone():
    parts = {"encoder": SmallCNN(in_channels=1), "views": simclr(size=8)}
    with pytest.raises(ContrastiveError, match=r"takes 1 \(encoder\) and 3 \(views\): set in_channels"):
        refuse_other_channels(parts.items(), 1, "x")
    own = {"encoder": Gray(), "views": torch.nn.Sequential(Gray(), Normalize()), "loss": torch.nn.Identity()}
    refuse_other_channels(own.items(), 1, "x")
    refuse_other_channels(
        [("encoder", SmallCNN(in_channels=1)), ("projector", torch.nn.Linear(2, 2))], 1, "x"
    )


def test_a_tiff_of_wide_planes_is_refused_which_pillow_would_read_as_noise(tmp_path):
    height, width = 4, 6
    planes = np.random.default_rng(0).integers(0, 2**16, (3, height, width), dtype=np.uint16)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 3, 140), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 3, 152), (284, 3, 1, 2)]
    size = height * width * 2
    arrays = struct.pack("<3H6I", 16, 16, 16, *(164 + i * size for i in range(3)), *[size] * 3)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    (tmp_path / "a.tif").write_bytes(head + bytes(4) + arrays + planes.tobytes())
    with pytest.raises(ContrastiveError, match="16 bits lie one after the other.*save it with each pixel's"):
        read_image(tmp_path / "a.tif", None, 3)
