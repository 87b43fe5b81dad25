"""Folders are written by litdata itself, and read by real worker processes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from contrastive.cli import main
from contrastive.data.image_crops import Crop
from contrastive.data.image_litdata import LitdataDataset, open_litdata
from contrastive.data.image_streams import ImageStream
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError

litdata = pytest.importorskip("litdata", reason="needs litdata: pip install litdata")
pytestmark = pytest.mark.filterwarnings("ignore")

NUM = 20


def pixels(i):
    return np.random.default_rng(i).integers(0, 256, (8 + i % 3, 8, 3), dtype=np.uint8)


def png(i):
    stream = io.BytesIO()
    Image.fromarray(pixels(i)).save(stream, "PNG")
    return stream.getvalue()


def write(folder, items, chunk_size=4):
    """What ``litdata.optimize`` does in each of its processes, without starting one a test."""
    from litdata.streaming.cache import Cache

    cache = Cache(str(folder), chunk_size=chunk_size)
    for i, item in enumerate(items):
        cache[i] = item
    cache.done()
    cache.merge()
    return str(folder)


def item(i):
    return {"image": png(i), "label": i % 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty images, optimised; forked, because litdata would set "spawn" for all tests that follow."""
    folder = str(tmp_path_factory.mktemp("litdata"))
    options = dict(chunk_size=4, num_workers=1, start_method="fork")
    litdata.optimize(fn=item, inputs=list(range(NUM)), output_dir=folder, **options)
    return folder


def test_images_that_meet_in_a_batch_do_not_meet_in_that_of_the_next_epoch(tmp_path):
    stream = open_litdata(write(tmp_path, [{"image": b"x"}] * 1024, chunk_size=1024), shuffle=True, seed=0)
    batches = []
    for epoch in (1, 2):
        stream.set_epoch(epoch)
        batches.append(torch.tensor([number for number, _ in stream]).view(4, 256))
    met = [[len({*first.tolist()} & {*second.tolist()}) for first in batches[0]] for second in batches[1]]
    assert np.max(met) < 100  # 64 are expected


def dataset(folder, **options):
    defaults = dict(image_size=8, channels=3, batch_size=5, num_batches=4, seed=0)
    return LitdataDataset(folder, **(defaults | options))


def order(batches):
    return torch.cat([batch.index for batch in batches]).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_every_image_once_with_its_pixels_and_class(folder, workers):
    batches = list(DataLoader(dataset(folder, batch_size=2, num_batches=10), None, num_workers=workers))
    assert sorted(order(batches)) == list(range(NUM)) != order(batches)
    for batch in batches:
        for image, label, number in zip(batch.input, batch.label.tolist(), batch.index.tolist()):
            top = (len(pixels(number)) - 8) // 2
            np.testing.assert_array_equal(image.permute(1, 2, 0), pixels(number)[top : top + 8])
            assert label == number % 3


def test_processes_share_an_epoch_without_overlap(folder):
    read = [order(dataset(folder, rank=rank, world_size=2, num_batches=2)) for rank in range(2)]
    assert sorted(read[0] + read[1]) == list(range(NUM))


def test_the_order_follows_from_seed_and_epoch(folder):
    def read(seed, epoch):
        data = dataset(folder, seed=seed)
        data.epoch = epoch
        return tuple(order(data))

    assert read(0, 0) == read(0, 0)
    assert len({read(*key) for key in ((0, 0), (0, 1), (1, 0))}) == 3


def test_a_reader_with_fewer_images_than_its_steps_begins_again(folder):
    read = order(dataset(folder, num_batches=8))
    assert sorted(read[:NUM]) == sorted(read[NUM:]) == list(range(NUM))


def test_crops_follow_from_the_images_number(folder):
    crop = Crop(size=6)
    data = dataset(folder, crop=crop, seed=3)
    data.epoch = 2
    for batch in data:
        for k, number in enumerate(batch.index.tolist()):
            image = torch.tensor(pixels(number)).permute(2, 0, 1)
            expected = crop.views(image, number, seed=3, epoch=2)
            assert all(torch.equal(view[k], one) for view, one in zip(batch.input, expected))


FORMS = {
    "PIL": lambda i: Image.fromarray(pixels(i)),
    "tensor": lambda i: torch.tensor(pixels(i)).permute(2, 0, 1).contiguous(),
    "tuple": lambda i: (Image.fromarray(pixels(i)), i % 3),
    "class": lambda i: {"image": Image.fromarray(pixels(i)), "class": i % 3},
    "grey": lambda i: Image.fromarray(pixels(i)[..., 0]),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_that_an_item_may_have(form, tmp_path):
    folder = write(tmp_path, [FORMS[form](i) for i in range(6)], chunk_size=3)
    (batch,) = dataset(folder, batch_size=6, num_batches=1)
    for image, number in zip(batch.input, batch.index.tolist()):
        top = (len(pixels(number)) - 8) // 2
        expected = pixels(number)[top : top + 8, ..., : 1 if form == "grey" else 3]
        np.testing.assert_array_equal(image.permute(1, 2, 0), np.broadcast_to(expected, (8, 8, 3)))
    labels = [number % 3 for number in batch.index.tolist()]
    assert batch.label.tolist() == labels if form in ("tuple", "class") else batch.label is None


def test_files_of_jpeg_are_read_as_pillow_reads_them(tmp_path):
    """litdata keeps the file's bytes."""
    for i in range(3):
        Image.fromarray(pixels(i)).resize((8, 8)).save(tmp_path / f"{i}.jpg")
    folder = write(tmp_path / "out", [Image.open(tmp_path / f"{i}.jpg") for i in range(3)])
    (batch,) = dataset(folder, batch_size=3, num_batches=1)
    for image, number in zip(batch.input, batch.index.tolist()):
        np.testing.assert_array_equal(
            image.permute(1, 2, 0), np.asarray(Image.open(tmp_path / f"{number}.jpg"))
        )


class Anything:
    pass


@pytest.mark.parametrize(
    "items,message",
    [
        ([{"picture": b"x"}], "item 0 of .* has no image; its keys are picture"),
        ([{"image": b"x"}], "item 0 of .* is not a readable image"),
        ([{"image": png(0), "label": "cat"}], "its class is no number"),
        ([{"image": Anything()}], "hold pickled objects, which could run code"),
    ],
)
def test_a_bad_item_is_named(items, message, tmp_path):
    with pytest.raises(ContrastiveError, match=message):
        list(dataset(write(tmp_path, items), batch_size=1, num_batches=1))


def test_a_folder_that_is_none_is_named(tmp_path, folder):
    with pytest.raises(ContrastiveError, match="cannot be read as a folder that litdata.optimize wrote"):
        ImageStream(f"litdata:{tmp_path}", image_size=8).setup()
    with pytest.raises(ContrastiveError, match="fewer than one batch of 64"):
        ImageStream(f"litdata:{folder}", image_size=8, batch_size=64).setup()
    with pytest.raises(ContrastiveError, match="give data.init_args.epoch_size"):
        ImageStream("train-{0..1}.tar", image_size=8).setup()


def test_pretraining_and_a_sheet_of_views(folder, tmp_path):
    args = ["--config", "configs/image/simclr_cifar10.yaml"]
    args += ["--data", "contrastive.data.image_streams.ImageStream", "--data.source", f"litdata:{folder}"]
    args += ["--data.image_size", "8", "--data.batch_size", "5", "--data.num_workers", "2"]
    run = ["--run_dir", str(tmp_path / "run"), "--wandb", "off", "--model.encoder.init_args.width", "8"]
    run += ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]
    assert main(["pretrain", *args, *run, "--trainer.accelerator", "cpu"]) == 0
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 8
    assert main(["views", *args, "--num", "3", "--output", str(tmp_path / "v.png")]) == 0
    with Image.open(tmp_path / "v.png") as sheet:
        assert sheet.size == (5 * 100 + 4, 16 + 3 * 100)


def test_a_folder_is_read_by_number_where_that_is_asked_for(folder):
    data = read_images(f"litdata:{folder}", "train")
    for i, image in enumerate(data.images):
        top = (len(pixels(i)) - 8) // 2
        np.testing.assert_array_equal(image.permute(1, 2, 0), pixels(i)[top : top + 8])
    assert len(data) == NUM and data.labels.tolist() == [i % 3 for i in range(NUM)]


def jpegs(folder, damaged):
    """Six images as litdata keeps files of JPEG, by their bytes; of some the head is overwritten."""
    images = []
    for i in range(6):
        Image.fromarray(pixels(i)).resize((8, 8)).save(folder / f"{i}.jpg")
        images.append({"image": Image.open(folder / f"{i}.jpg"), "label": i})
    out = write(folder / "out", images, chunk_size=3)
    for i in damaged:
        content = (folder / f"{i}.jpg").read_bytes()
        for chunk in (folder / "out").glob("*.bin"):
            chunk.write_bytes(chunk.read_bytes().replace(content, bytes(len(content))))
    return out


@pytest.mark.parametrize("form", ["jpeg", "bytes"])
def test_corrupt_images_are_named_counted_and_replaced_when_asked(form, tmp_path, caplog):
    if form == "jpeg":
        folder = jpegs(tmp_path, damaged=[0, 4])
    else:
        folder = write(tmp_path, [item(i) | {"image": b"x" if i in (0, 4) else png(i)} for i in range(6)])
    with pytest.raises(
        ContrastiveError, match="^item [04] of .* is not a readable image .*skip_corrupt=true$"
    ):
        list(dataset(folder, batch_size=3, num_batches=2))
    batches = list(dataset(folder, batch_size=3, num_batches=2, skip_corrupt=True))
    assert {*order(batches)} == {1, 2, 3, 5} and [len(batch.input) for batch in batches] == [3, 3]
    assert sorted(m.split(" is ")[0] for m in caplog.messages[:2]) == [
        f"skipped: item {i} of {folder}" for i in (0, 4)
    ]
    assert caplog.messages[2] == "skipped 2 images that do not decode in epoch 0, worker 0 of process 0"
    stream = ImageStream(f"litdata:{folder}", image_size=8, skip_corrupt=True)
    assert len(stream.examples(6)) == len(read_images(f"litdata:{folder}", "train", skip_corrupt=True)) == 4


def test_a_jpeg_is_never_given_to_a_decoder_that_runs_code(tmp_path):
    """litdata itself would try any of Pillow's, Ghostscript too."""
    Image.fromarray(pixels(0)).save(tmp_path / "a.eps")
    script = (tmp_path / "a.eps").read_bytes()
    Image.fromarray(pixels(0)).save(tmp_path / "0.jpg")
    (tmp_path / "0.jpg").write_bytes((tmp_path / "0.jpg").read_bytes().ljust(len(script), b" "))
    folder = write(tmp_path / "out", [{"image": Image.open(tmp_path / "0.jpg")}])
    (chunk,) = (tmp_path / "out").glob("*.bin")
    content = (tmp_path / "0.jpg").read_bytes()
    chunk.write_bytes(chunk.read_bytes().replace(content, script.ljust(len(content), b" ")))
    with pytest.raises(ContrastiveError, match="item 0 of .* .it is none of JPEG, PNG"):
        list(dataset(folder, batch_size=1, num_batches=1))
