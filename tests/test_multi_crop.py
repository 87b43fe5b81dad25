"""Many crops of every image in pretraining, against cross-entropies over all pairs in float64."""

import json

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from augmentations.image import multi_crop, weak
from contrastive.cli import main
from contrastive.config_files import find_config
from contrastive.data import Batch
from contrastive.losses import InfoNCE
from contrastive.methods.multi_crop import MultiCrop

IMAGES = torch.randint(0, 256, (5, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BATCH = Batch(IMAGES, None, torch.arange(5))


class Pooled(nn.Module):
    """A network that takes images of any size, one by one."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 4, 6)
        self.passes = []

    def forward(self, x):
        self.passes.append(tuple(x.shape))
        return self.linear(F.adaptive_avg_pool2d(x, 2).flatten(1)).relu()


def cross_entropy(a, b, temperature):
    z = F.normalize(torch.cat([a, b]).double(), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(a)))


def module(**crops):
    view, loss = multi_crop(size=8, small_size=4, blur=0.0, **crops), InfoNCE(temperature=0.3)
    return MultiCrop(Pooled(), [view], projector=lambda width: nn.Linear(width, 4), loss=loss)


@pytest.mark.parametrize(("num_large", "num_small"), [(2, 3), (3, 1), (2, 0)])
def test_large_crops_are_contrasted_with_all(num_large, num_small):
    torch.manual_seed(0)
    method = module(num_large=num_large, num_small=num_small)
    crops = method.augment(BATCH)
    outputs = method.step(BATCH)
    z = [method.projector(method.encoder(crop)) for crop in crops]
    several = [(i, j) for i in range(len(z)) for j in range(len(z)) if i < j and i < num_large]
    expected = sum(cross_entropy(z[i], z[j], 0.3) for i, j in several) / len(several)
    torch.testing.assert_close(outputs["loss"].double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs["z"], torch.cat(z[:num_large]))
    assert method.encoder.passes[: 1 + (num_small > 0)] == [
        (5 * number, 3, size, size) for number, size in ((num_large, 8), (num_small, 4)) if number
    ]
    assert all(torch.equal(a, b) for a, b in zip(crops, method.augment(BATCH)))  # drawn by the index


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="one augmentation"):
        MultiCrop(Pooled(), [weak(size=8), weak(size=8)])
    with pytest.raises(ValueError, match="no accumulate_negatives"):
        MultiCrop(Pooled(), [multi_crop()], accumulate_negatives=2)


def test_from_the_command_line(tmp_path):
    recipe = yaml.safe_load(find_config("configs/image/simclr_digits.yaml").read_text())
    crops = {"size": 8, "small_size": 4, "num_small": 2, "blur": 0.0, "mean": [0.5], "std": [0.5]}
    model = recipe["model"] | {
        "views": [{"class_path": "augmentations.image.multi_crop", "init_args": crops}]
    }
    recipe["model"] = {"class_path": "contrastive.methods.multi_crop.MultiCrop", "init_args": model}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = tmp_path / "run"
    arguments = ["pretrain", "--config", tmp_path / "recipe.yaml", "--run_dir", run, "--wandb", "off"]
    arguments += ["--trainer.max_steps", 2, "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", 1]
    arguments += ["--collapse.every_n_steps", 1, "--model.encoder.init_args.width", 4]
    assert main(list(map(str, arguments))) == 0
    assert "z_alignment" in (run / "metrics.csv").read_text()  # of the two large crops
    assert main(["inspect", str(run), "--num-items", "64"]) == 0
    rows = json.loads((run / "results" / "inspect-num_items=64.json").read_text())["rows"]
    assert 0 < rows["pretrained"]["alignment"] < 4
    quick = ["--finetuning.num_epochs", "1", "--finetuning.min_steps", "1", "--untrained", "false"]
    assert main(["probe", str(run), "--method", "finetune", "--labels-per-class", "2", *quick]) == 0


@pytest.mark.parametrize("view", [lambda x, random: x.float(), lambda x, random: [x.float()]])
def test_what_is_no_list_of_crops_is_refused(view):
    method = MultiCrop(Pooled(), [weak(size=12)], channels_last=False)
    method.views[0].forward = view
    with pytest.raises(ValueError, match="two crops or more"):
        method.augment(BATCH)
    with pytest.raises(ValueError, match="leave out data.init_args.crop"):
        method.augment(Batch((IMAGES, IMAGES), None, BATCH.index))
