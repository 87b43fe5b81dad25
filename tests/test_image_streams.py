"""Shards are real tar files, read by real worker processes."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from contrastive.cli import main
from contrastive.data.image_crops import Crop
from contrastive.data.image_shards import ShardDataset, find_shards, sample_index
from contrastive.data.image_streams import ImageStream
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError
from contrastive.features import load_encoder

pytest.importorskip("webdataset", reason="tar shards need webdataset: pip install webdataset")

NUM_SHARDS, PER_SHARD = 4, 10


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue(), pixels


@pytest.fixture
def shards(tmp_path):
    """Four shards of ten images, whose class is their number modulo 3."""
    for s in range(NUM_SHARDS):
        with tarfile.open(tmp_path / f"train-{s:03}.tar", "w") as tar:
            for i in range(s * PER_SHARD, (s + 1) * PER_SHARD):
                add(tar, f"{i:05}.png", png(i)[0])
                add(tar, f"{i:05}.cls", str(i % 3).encode())
    return str(tmp_path / "train-{000..003}.tar")


def dataset(shards, **options):
    defaults = dict(image_size=8, channels=3, batch_size=5, num_batches=8, shuffle_buffer=7, seed=0)
    return ShardDataset(find_shards(shards), **(defaults | options))


def numbers(batches):
    place = {sample_index(f"{i:05}"): i for i in range(NUM_SHARDS * PER_SHARD)}
    return [place[index] for batch in batches for index in batch.index.tolist()]


def test_an_epoch_has_every_image_once_with_its_pixels_and_class(shards):
    batches = list(dataset(shards))
    assert sorted(numbers(batches)) == list(range(40)) != numbers(batches)
    for number, image, label in zip(
        numbers(batches), torch.cat([b.input for b in batches]), torch.cat([b.label for b in batches])
    ):
        np.testing.assert_array_equal(image.permute(1, 2, 0), png(number)[1])
        assert label == number % 3


def test_crops_are_those_of_the_images_wherever_they_are_read(shards):
    crop = Crop(size=6)
    read = {}
    for workers in (0, 2):
        data = dataset(shards, crop=crop, seed=3)
        data.epoch = 1
        for batch in DataLoader(data, batch_size=None, num_workers=workers):
            for k, number in enumerate(numbers([batch])):
                read.setdefault(number, []).append([view[k] for view in batch.input])
    assert sorted(read) == list(range(40))
    for number, drawn in read.items():
        image = torch.tensor(png(number)[1]).permute(2, 0, 1)
        expected = crop.views(image, sample_index(f"{number:05}"), seed=3, epoch=1)
        assert len(drawn) == 2 and all(torch.equal(a, b) for views in drawn for a, b in zip(views, expected))


def test_processes_and_workers_share_an_epoch_without_overlap(shards):
    read = []
    for rank in range(2):
        part = dataset(shards, rank=rank, world_size=2, num_batches=4)
        loader = DataLoader(part, batch_size=None, num_workers=2)
        batches = list(loader)
        assert len(batches) == len(loader) == 4
        read += numbers(batches)
    assert sorted(read) == list(range(40))


def test_the_order_follows_from_seed_and_epoch(shards):
    def order(seed, epoch):
        data = dataset(shards, seed=seed)
        data.epoch = epoch
        return numbers(data)

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*key)) for key in ((0, 0), (0, 1), (1, 0))}) == 3


def test_a_reader_with_fewer_images_than_its_steps_begins_again(shards):
    read = numbers(dataset(shards, num_batches=20))
    assert len(read) == 100 and sorted(read[:40]) == sorted(read[40:80]) == list(range(40))


def test_pretraining_from_shards(shards, tmp_path):
    args = ["pretrain", "--config", "configs/image/simclr_cifar10.yaml", "--wandb", "off"]
    args += ["--run_dir", str(tmp_path / "run"), "--model.encoder.init_args.width", "8"]
    args += ["--data", "contrastive.data.image_streams.ImageStream", "--data.source", shards]
    args += ["--data.image_size", "8", "--data.epoch_size", "40", "--data.batch_size", "8"]
    args += ["--data.num_workers", "2", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]
    assert main([*args, "--trainer.accelerator", "cpu"]) == 0
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 10


@pytest.mark.parametrize(
    "options,message",
    [
        ({"source": "nowhere-{0..1}.tar"}, "no shard nowhere-0.tar"),
        ({"source": "nowhere-*.tar"}, "no shard fits nowhere"),
        ({"num_workers": 5}, "4 shards for 5 readers"),
        ({"batch_size": 64}, "fewer than one batch of 64"),
    ],
)
def test_settings_that_do_not_fit_are_named(options, message, shards):
    with pytest.raises(ContrastiveError, match=message):
        ImageStream(
            **({"source": shards, "image_size": 8, "epoch_size": 40} | {"batch_size": 8} | options)
        ).setup()


@pytest.mark.parametrize(
    "damage,message",
    [("cut", "cannot be read as a tar"), ("text", "cannot be read as a tar"), ("empty", "holds no sample")],
)
def test_a_damaged_shard_is_named(damage, message, shards, tmp_path):
    shard = tmp_path / "train-002.tar"
    if damage == "empty":
        tarfile.open(shard, "w").close()
    else:
        shard.write_bytes(shard.read_bytes()[:700] if damage == "cut" else b"not a tar" * 200)
    with pytest.raises(ContrastiveError, match=f"train-002.tar {message}"):
        list(dataset(shards))


@pytest.mark.parametrize(
    "files,message",
    [
        ({"a.txt": b"x"}, "a of .* has no image; its files are txt"),
        (
            {"a.png": b"x"},
            "^a.png of .*bad.tar is not a readable image .*; repair or remove it, or pass skip_corrupt=true$",
        ),
        ({"a.png": png(0)[0], "a.cls": b"cat"}, "a of .*: its class is no number"),
        ({"a.png": png(0)[0], "a.cls": b"9" * 40}, "a of .*: its class is 9+; number classes from 0"),
    ],
)
def test_a_bad_sample_is_named(files, message, tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        for name, content in files.items():
            add(tar, name, content)
    with pytest.raises(ContrastiveError, match=message):
        list(dataset(str(tmp_path / "bad.tar"), batch_size=1, num_batches=1))


def test_a_sheet_of_views_takes_the_first_images(shards):
    images = ImageStream(shards, image_size=8, epoch_size=40).examples(3).__getitems__([0, 1, 2]).input
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1), np.stack([png(i)[1] for i in range(3)]))


def test_shards_are_read_by_number_where_that_is_asked_for(shards, tmp_path):
    data = read_images(shards, "train")
    np.testing.assert_array_equal(
        data.images.permute(0, 2, 3, 1), np.stack([png(i)[1] for i in range(NUM_SHARDS * PER_SHARD)])
    )
    assert data.labels.tolist() == [i % 3 for i in range(40)] and data.classes == ["0", "1", "2"]
    assert str(data.paths[11]) == str(tmp_path / "train-001.tar" / "00011.png")
    with pytest.raises(ContrastiveError, match="has no test split: give the shards"):
        read_images(shards, "test")
    (tmp_path / "train-002.tar").write_bytes((tmp_path / "train-002.tar").read_bytes()[:700])
    with pytest.raises(ContrastiveError, match="train-002.tar cannot be read as a tar: it is cut short"):
        read_images(shards, "train")


def test_a_shard_by_number_has_the_samples_of_the_stream(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "__index__/preview.png", png(9)[0])
        for i in range(3):
            for name, content in (("PNG", png(i)[0]), ("thumb.png", png(7)[0]), ("CLS", b"%d" % (2 - i))):
                add(tar, f"{i}.{name}", content)
            add(tar, f"{i}.webp", png(8)[0])
    held = read_images(str(tmp_path / "a.tar"), "train")
    (streamed,) = dataset(str(tmp_path / "a.tar"), batch_size=3, num_batches=1)
    order = streamed.index.argsort()
    expected = torch.tensor([sample_index(str(i)) for i in range(3)]).argsort()
    assert torch.equal(held.images[expected], streamed.input[order])
    assert held.labels[expected].tolist() == streamed.label[order].tolist()


def test_a_damaged_image_of_a_shard_is_named(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        add(tar, "a.png", png(0)[0])
        add(tar, "b.png", png(1)[0][:60])
    with pytest.raises(ContrastiveError, match="^b.png of .*bad.tar is not a readable image"):
        read_images(str(tmp_path / "bad.tar"), "train")


def test_an_encoder_embeds_shards(digits_run, shards, tmp_path):
    out = tmp_path / "f.npz"
    assert main(["embed", str(digits_run), "--data", shards, "--output", str(out), "--batch-size", "16"]) == 0
    arrays = np.load(out)
    grey = np.stack([np.asarray(Image.fromarray(png(i)[1]).convert("L")) for i in range(40)])
    expected = load_encoder(digits_run)(torch.from_numpy(grey)[:, None])
    np.testing.assert_allclose(arrays["h"], expected, rtol=1e-4, atol=1e-5)
    assert arrays["y"].tolist() == [i % 3 for i in range(40)]
    assert arrays["item"][39].endswith("train-003.tar/00039.png")


def test_a_run_on_shards_is_probed_and_inspected(shards, tmp_path):
    """What it was pretrained on is looked up for leaks and for views."""
    run = str(tmp_path / "run")
    args = ["pretrain", "--config", "configs/image/simclr_cifar10.yaml", "--wandb", "off", "--run_dir", run]
    args += ["--data", "contrastive.data.image_streams.ImageStream", "--data.source", shards]
    args += ["--data.image_size", "8", "--data.epoch_size", "40", "--data.batch_size", "8"]
    args += ["--model.encoder.init_args.width", "4", "--model.views.init_args.size", "8"]
    args += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    assert main([*args, "--trainer.accelerator", "cpu"]) == 0
    assert main(["inspect", run, "--num-items", "16"]) == 0
    for i in range(60):
        folder = tmp_path / "pets" / str(i % 2)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02}.png").write_bytes(png(i)[0])
    assert main(["probe", run, "--data", str(tmp_path / "pets")]) == 0
    leaks = json.loads((tmp_path / "run" / "results" / "probe-pets.json").read_text())["leaks"]
    assert leaks["num_pretraining"] == 40 and 0 < leaks["in_pretraining"] < leaks["num_test"] == 18


@pytest.fixture
def with_corrupt(tmp_path):
    """Three shards of ten images; the first of all and the last of the second are cut short."""
    for s in range(3):
        with tarfile.open(tmp_path / f"some-{s}.tar", "w") as tar:
            for i in range(s * PER_SHARD, (s + 1) * PER_SHARD):
                add(tar, f"{i:05}.png", png(i)[0][: 60 if i in (0, 19) else None])
    return str(tmp_path / "some-{0..2}.tar")


CORRUPT = "is not a readable image (image file is truncated); repair or remove it, or pass skip_corrupt=true"


def test_corrupt_images_are_named_counted_and_replaced_when_asked(with_corrupt, tmp_path, caplog):
    with pytest.raises(ContrastiveError) as stopped:
        list(dataset(with_corrupt, num_batches=6))
    assert str(stopped.value).endswith(CORRUPT)
    batches = list(dataset(with_corrupt, num_batches=6, skip_corrupt=True))
    read = numbers(batches)
    assert [len(batch.input) for batch in batches] == [5] * 6 and set(read) == {*range(30)} - {0, 19}
    assert [len({*batch.index.tolist()}) for batch in batches] == [5] * 6, "no image is its own negative"
    named = [
        f"skipped: 00000.png of {tmp_path}/some-0.tar {CORRUPT}",
        f"skipped: 00019.png of {tmp_path}/some-1.tar {CORRUPT}",
    ]
    assert sorted(caplog.messages[:2]) == named
    assert caplog.messages[2:] == ["skipped 2 images that do not decode in epoch 0, worker 0 of process 0"]


@pytest.mark.parametrize("workers,crop", [(0, None), (2, Crop(size=6))])
def test_a_resumed_epoch_goes_on_where_it_was_past_corrupt_images(with_corrupt, workers, crop):
    def batches(start):
        data = dataset(with_corrupt, num_batches=6, skip_corrupt=True, crop=crop)
        data.start = start
        return list(DataLoader(data, batch_size=None, num_workers=workers))

    for whole, rest in zip(batches(0)[max(1, workers) :], batches(1), strict=True):
        assert torch.equal(whole.index, rest.index)
        assert all(torch.equal(a, b) for a, b in zip(whole.input, rest.input, strict=True))


def test_shards_none_of_whose_images_decodes_end_the_run(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        for i in range(3):
            add(tar, f"{i}.png", b"x")
    with pytest.raises(ContrastiveError, match="none of 3 images decodes; the first: 0.png of .*bad.tar"):
        list(dataset(str(tmp_path / "bad.tar"), skip_corrupt=True))
    with pytest.raises(ContrastiveError, match="none of the images of .*bad.tar decodes"):
        ImageStream(str(tmp_path / "bad.tar"), image_size=8, skip_corrupt=True).examples(2)


def test_what_is_not_a_corrupt_image_is_never_skipped(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        add(tar, "a.txt", b"x")
    with pytest.raises(ContrastiveError, match="a of .* has no image"):
        list(dataset(str(tmp_path / "bad.tar"), skip_corrupt=True))


def test_corrupt_images_are_skipped_wherever_a_stream_is_read(with_corrupt, tmp_path, capsys, caplog):
    data = ImageStream(with_corrupt, image_size=8, epoch_size=20, skip_corrupt=True)
    expected = torch.tensor(png(1)[1]).permute(2, 0, 1)
    assert torch.equal(data.examples(2).__getitems__([0]).input[0], expected)
    assert caplog.messages[-1] == "skipped 1 images that do not decode"
    assert torch.equal(data.read("train").__getitems__([0]).input[0], expected)
    assert (
        len(read_images(with_corrupt, "train", skip_corrupt=True)) == 28
    )  # its size, of the first that decodes
    run = str(tmp_path / "run")
    args = ["pretrain", "--config", "configs/image/simclr_cifar10.yaml", "--wandb", "off", "--run_dir", run]
    args += ["--data", "contrastive.data.image_streams.ImageStream", "--data.source", with_corrupt]
    args += ["--data.image_size", "8", "--data.epoch_size", "28", "--data.batch_size", "14"]
    args += [
        "--data.num_workers",
        "1",
        "--model.encoder.init_args.width",
        "4",
        "--model.views.init_args.size",
        "8",
    ]
    args += [
        "--trainer.max_epochs",
        "1",
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.accelerator",
        "cpu",
    ]
    assert main(args) == 1
    assert capsys.readouterr().err.rstrip().endswith(CORRUPT)
    assert main([*args, "--data.skip_corrupt", "true"]) == 0


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"num_workers": -1}, {"epoch_size": 0}, {"shuffle_buffer": 0}]
)
def test_numbers_that_are_too_small_are_refused(options):
    (name, value) = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}; "):
        ImageStream("litdata:folder", image_size=8, **options)
