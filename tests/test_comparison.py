"""Recipes are compared by real runs on digits; intervals are scipy's."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from augmentations.image import simclr
from augmentations.random import SampleRandom
from contrastive.building import build_module
from contrastive.evaluation.comparison import markdown, summarise

SCRIPTS = Path(__file__).parent.parent / "scripts"
SMALL = ["--source", "digits", "--epochs", "1", "--batch-size", "64", "--width", "8", "--threads", "1"]


def row(name, seed, accuracy):
    return {"name": name, "seed": seed, "knn_accuracy": accuracy / 2, "linear_accuracy": accuracy}


def test_differences_are_paired_by_seed():
    a, b = [0.5, 0.6, 0.9], [0.52, 0.63, 0.91]
    rows = [row("a", i, value) for i, value in enumerate(a)]
    rows += [row("b", i, value) for i, value in reversed(list(enumerate(b)))]
    first, second = summarise(rows, "a")
    difference = stats.ttest_rel(b, a)
    low, high = difference.confidence_interval(0.95)
    assert "linear_accuracy_difference" not in first
    assert second["linear_accuracy_difference"] == pytest.approx(0.02)
    np.testing.assert_allclose(second["linear_accuracy_difference_ci95"], (low, high), rtol=1e-6)
    mean = stats.ttest_1samp(b, 0).confidence_interval(0.95)
    np.testing.assert_allclose(second["linear_accuracy_ci95"], (mean.low, 1), rtol=1e-6)
    assert mean.high > 1  # where no accuracy lies
    assert "+2.0 [-0.5, +4.5]" in markdown([first, second], "a")


def test_one_seed_has_no_interval():
    assert "| 50.0 |" in markdown(summarise([row("a", 0, 0.5)], "a"), "a")


def test_the_losses_are_compared_and_what_is_done_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from compare_losses import RECIPES, compare, parser

    options = parser("", "runs").parse_args([*SMALL, "--seeds", "0", "--runs", str(tmp_path)])
    compare(RECIPES, options)
    first = json.loads((tmp_path / "comparison.json").read_text())
    assert [line["name"] for line in first["summary"]] == [
        "InfoNCE",
        "debiased",
        "hard negatives",
        "untrained",
    ]
    assert all(0.1 < r["linear_accuracy"] <= 1 and 0.1 < r["knn_accuracy"] <= 1 for r in first["rows"])
    checkpoints = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("last.ckpt")}
    (tmp_path / "debiased-seed0" / "results" / "comparison.json").unlink()
    compare(RECIPES, options)
    second = json.loads((tmp_path / "comparison.json").read_text())
    assert second["rows"] == first["rows"]  # the lost row came back from its checkpoint
    assert sum(path.stat().st_mtime_ns == time for path, time in checkpoints.items()) >= 2


def test_the_full_recipe_of_the_ablation_is_simclrs(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from ablate_augmentations import WITHOUT, views

    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)

    def draw(view):
        return view(images, SampleRandom(torch.arange(16), seed=1))

    (full,) = views(WITHOUT["full recipe"])
    torch.testing.assert_close(draw(build_module(full)), draw(simclr(size=32, blur=0.5)))
    drawn = {name: draw(build_module(views(without)[0])) for name, without in WITHOUT.items()}
    names = list(WITHOUT)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            assert not torch.equal(drawn[name], drawn[other]), (name, other)
    means = draw(build_module(views({"crop", "flip", "jitter", "grayscale", "blur"})[0]))
    expected = draw(build_module({"class_path": "augmentations.colour.Normalize"}))
    torch.testing.assert_close(means, expected, rtol=1e-4, atol=1e-4)


def test_the_ablation_draws_its_figure(tmp_path):
    args = [
        sys.executable,
        SCRIPTS / "ablate_augmentations.py",
        *SMALL,
        "--runs",
        tmp_path,
        "--seeds",
        "0",
        "1",
    ]
    done = subprocess.run([*map(str, args), "--only", "no crop"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ablation.png").read_bytes()[:4] == b"\x89PNG"
    assert "| no crop |" in (tmp_path / "comparison.md").read_text()
