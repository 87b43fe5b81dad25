"""Crops cut by workers, against torchvision's and against the batched crop; read by real worker processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as tv
import yaml
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from scipy import stats
from torch.utils.data import DataLoader

from augmentations.geometry import RandomResizedCrop
from augmentations.image import byol, medical, moco_v2, simclr, weak
from augmentations.random import SampleRandom
from contrastive.cli import main
from contrastive.data import Batch, split_batch
from contrastive.data.image_crops import _CROPS, Crop, CroppedViews
from contrastive.data.image_dataset import ImageDataset
from contrastive.data.images import ImageData
from contrastive.evaluation.evaluate import pretraining_views
from contrastive.features import load_encoder

SIZES = [(40 + 7 * i % 40, 30 + 11 * i % 50) for i in range(20)]  # width and height, each another


def photograph(seed, width, height):
    """Coarse colours, enlarged: uint8 ``(height, width, 3)``."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path):
    """A training split of twenty PNGs of twenty sizes in two classes, and a test split of two."""
    for i, size in enumerate(SIZES):
        for path in [tmp_path / "train" / "ab"[i % 2] / f"{i:02}.png", tmp_path / "test" / "a" / f"{i}.png"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph(i, *size)).save(path)
    return tmp_path


def as_is(batch):
    return batch


def cropped(folder, **options):
    data = ImageData(str(folder), crop=Crop(size=16), image_size=24, batch_size=4, **options)
    data.setup()
    return data, CroppedViews(data.train, data.crop, data.seed)


# ---- the crops


@pytest.mark.parametrize("size", [16, 40, 64])
def test_crops_are_those_of_the_batched_crop_for_the_same_draws(size):
    images = torch.stack([torch.tensor(photograph(i, 52, 40)).permute(2, 0, 1) for i in range(12)])
    crop, index = Crop(size=size), torch.arange(12)
    for view in range(2):
        ours = torch.stack([crop.views(images[i], i, seed=3, epoch=5)[view] for i in range(12)])
        random = SampleRandom(index, seed=3 ^ _CROPS, epoch=5, view=view)
        batched = RandomResizedCrop(size=size, flip=0.0)(images, random)
        torch.testing.assert_close(ours / 255, batched, atol=1.5 / 255, rtol=0)


def test_crops_are_distributed_as_torchvisions():
    """On a ramp a crop's pixels say where it lay; the two views and two epochs are draws of their own."""
    y, x = torch.meshgrid(torch.arange(160), torch.arange(240), indexing="ij")
    ramp = torch.stack([y, x]).to(torch.uint8)
    crop = Crop(size=24, scale=(0.1, 0.8))
    views = [view for i in range(300) for e in range(2) for view in crop.views(ramp, i, seed=0, epoch=e)]
    torch.manual_seed(0)
    peer = tv.RandomResizedCrop(24, scale=(0.1, 0.8), antialias=True)
    theirs = torch.stack([peer(ramp) for _ in range(1200)]).float()
    ours = torch.stack(views).float()
    for read in (lambda t: t.mean((2, 3)), lambda t: t.amax((2, 3)) - t.amin((2, 3))):
        for channel in range(2):
            assert stats.ks_2samp(read(ours)[:, channel], read(theirs)[:, channel]).pvalue > 1e-3
    centres = ours.mean((2, 3))[:, 0].view(600, 2)
    assert abs(stats.pearsonr(*centres.T).statistic) < 0.15, "the two views are drawn independently"


def test_crops_follow_from_seed_epoch_index_and_view():
    image, crop = torch.tensor(photograph(0, 60, 50)).permute(2, 0, 1), Crop(size=16)
    first = crop.views(image, 7, seed=1, epoch=2)
    for i, view in enumerate(crop.views(image, 7, seed=1, epoch=2)):
        assert torch.equal(view, first[i])
    keys = [(8, 1, 2), (7, 2, 1), (7, 1, 3)]
    others = [crop.views(image, index, seed=seed, epoch=epoch) for index, seed, epoch in keys]
    drawn = [view.flatten().tolist() for views in [first, *others] for view in views]
    assert len({tuple(pixels) for pixels in drawn}) == 8


# ---- batches


def test_batches_do_not_depend_on_the_number_of_workers(folder):
    _, views = cropped(folder, val_fraction=0)
    numbers = [40 + i for i in (3, 0, 19, 8, 5, 11, 2, 7)]  # of epoch 2
    batches = [
        list(DataLoader(views, batch_size=4, sampler=numbers, num_workers=workers, collate_fn=as_is))
        for workers in (0, 2)
    ]
    for alone, shared in zip(*batches):
        assert torch.equal(alone.index, shared.index) and torch.equal(alone.label, shared.label)
        assert len(alone.input) == 2
        for a, b in zip(alone.input, shared.input):
            assert torch.equal(a, b) and a.dtype == torch.uint8 and a.shape == (4, 3, 16, 16)
    assert batches[0][0].index.tolist() == [3, 0, 19, 8]
    assert batches[0][0].label.tolist() == views.images.labels[[3, 0, 19, 8]].tolist()


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch):
        self.seen.append((self.current_epoch, batch))
        return self.weight**2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_trainer_gets_each_epochs_own_crops_from_full_size(folder, tmp_path):
    recorder, (data, _) = Recorder(), cropped(folder, val_fraction=0.2, num_workers=2, seed=5)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    Trainer(max_epochs=2, enable_model_summary=False, **quiet).fit(recorder, data)
    assert [epoch for epoch, _ in recorder.seen] == [0] * 4 + [1] * 4
    for epoch, batch in recorder.seen:
        for k, index in enumerate(batch.index.tolist()):
            pixels = np.asarray(Image.open(data.train.images[index]))
            image = torch.tensor(pixels).permute(2, 0, 1)
            for i, view in enumerate(data.crop.views(image, index, seed=5, epoch=epoch)):
                assert torch.equal(batch.input[i][k], view)


def test_validation_is_read_as_without_crops(folder):
    (data, _), plain = cropped(folder), ImageData(str(folder), image_size=24, batch_size=4)
    plain.setup()
    ours, theirs = (d.val.__getitems__(list(range(len(d.val)))) for d in (data, plain))
    assert torch.equal(ours.input, theirs.input) and ours.input.shape == (2, 3, 24, 24)


def test_a_corrupt_file_is_replaced_by_the_next_when_asked(folder):
    (folder / "train" / "a" / "04.png").write_bytes(b"not an image")
    _, views = cropped(folder, val_fraction=0, skip_corrupt=True)
    assert views.__getitems__([2, 3]).index.tolist() == [3, 3]


def test_images_in_memory_are_cropped_too():
    images = torch.randint(0, 256, (5, 1, 12, 12), dtype=torch.uint8)
    views = CroppedViews(ImageDataset(images, None, [], image_size=12, channels=1), Crop(size=8), 0)
    batch = views.__getitems__([0, 4])
    assert batch.label is None and [view.shape for view in batch.input] == [(2, 1, 8, 8)] * 2


def test_a_batch_of_views_splits_without_loss():
    batch = Batch((torch.arange(10), torch.arange(10) + 10), None, torch.arange(10))
    parts = split_batch(batch, 3)
    for i in range(2):
        assert torch.equal(torch.cat([part.input[i] for part in parts]), batch.input[i])


# ---- the recipe that follows


def test_with_scale_none_images_are_flipped_alone():
    images = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8)
    views = RandomResizedCrop(size=8, scale=None)(images, SampleRandom(torch.arange(200)))
    same, mirrored = ((views == side / 255).flatten(1).all(1) for side in (images, images.flip(3)))
    assert (same | mirrored).all() and stats.binomtest(int(mirrored.sum()), 200, 0.5).pvalue > 1e-3
    turned = RandomResizedCrop(size=8, scale=None, flip=0.0, degrees=0.001)(images)
    torch.testing.assert_close(turned[..., 1:-1, 1:-1], images[..., 1:-1, 1:-1] / 255, atol=1e-2, rtol=0)


@pytest.mark.parametrize("recipe", [simclr, moco_v2, weak, medical, byol])
def test_recipes_take_cropped_images_and_refuse_others(recipe):
    options = {"view": 1} if recipe is byol else {}
    if recipe is medical:
        options |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    view = recipe(size=16, scale=None, **options)
    assert view(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="the images are 24×24, .* come cropped to 16.*crop.size 16"):
        view(torch.zeros(2, 3, 24, 24, dtype=torch.uint8))


@pytest.fixture
def recipe(folder, tmp_path):
    """The ImageNet recipe at the size of a test."""
    config = yaml.safe_load(Path("configs/image/simclr_imagenet.yaml").read_text())
    config["model"]["encoder"]["init_args"] |= {"depth": 18, "width": 8, "stem": "small"}
    config["model"]["views"][0]["init_args"]["size"] = config["data"]["init_args"]["crop"]["size"] = 16
    config["data"]["init_args"] |= {"source": str(folder), "image_size": 24, "batch_size": 8}
    config["data"]["init_args"] |= {"num_workers": 0, "val_fraction": 0.2}
    config["trainer"] = {"max_epochs": 2, "enable_progress_bar": False, "accelerator": "cpu"}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    return str(tmp_path / "small.yaml")


@pytest.mark.parametrize("options", [[], ["--model.accumulate_negatives", "2"]])
def test_a_run_is_the_same_with_any_number_of_workers(recipe, options, tmp_path):
    weights = []
    for workers in ("0", "2"):
        run = tmp_path / f"run{workers}{len(options)}"
        args = ["pretrain", "--config", recipe, "--run_dir", str(run), "--wandb", "off", *options]
        assert main([*args, "--data.init_args.num_workers", workers]) == 0
        weights.append(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_run_whose_data_cut_the_crops_is_inspected_and_fine_tuned(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = str(tmp_path / "run")
    assert main(["pretrain", "--config", recipe, "--run_dir", run, "--wandb", "off"]) == 0
    assert main(["inspect", run]) == 0
    labelled = ["--data", str(tmp_path / "train"), "--method", "finetune", "--finetuning.num-epochs", "1"]
    assert main(["probe", run, *labelled]) == 0
    (view,) = pretraining_views(load_encoder(run))
    images = torch.arange(24, dtype=torch.uint8).expand(50, 3, 24, 24)  # a ramp shows where a crop is from
    drawn = view(images, SampleRandom(torch.arange(50)))
    assert drawn.shape == (50, 3, 16, 16) and drawn.std(dim=0).mean() > 0.01


def test_a_recipe_that_would_crop_the_crop_is_refused(recipe, tmp_path, capsys):
    config = yaml.safe_load(Path(recipe).read_text())
    config["model"]["views"][0]["init_args"]["scale"] = [0.08, 1.0]
    (tmp_path / "twice.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    args = ["pretrain", "--config", str(tmp_path / "twice.yaml"), "--run_dir", str(run), "--wandb", "off"]
    assert main(args) == 1
    message = capsys.readouterr().err
    assert "cropped twice, by data.crop and by the views" in message and "scale: null" in message
    assert not (run / "checkpoints" / "last.ckpt").exists()


def test_a_sheet_shows_the_crops_that_pretraining_sees(recipe, tmp_path):
    args = ["views", "--config", recipe, "--num", "3", "--output", str(tmp_path / "v.png")]
    assert main(args) == 0
    with Image.open(tmp_path / "v.png") as sheet:
        assert sheet.size == (5 * 100 + 4, 16 + 3 * 100)
