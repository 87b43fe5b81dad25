"""The script that makes the table: run as a process on small sets, cut off and continued."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")

ROOT = Path(__file__).parent.parent
RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "c1ccccc1", "c1ccncc1", "c1ccoc1", "C1CCNCC1", "C1CCOCC1", "c1ccsc1"]
TAILS = ["C", "CC", "CO", "CN", "CCl", "CCC", "C(=O)O", "C#N", "CF", "CCO", "C(C)C", "CS"]
SMILES = [ring + tail for tail in TAILS for ring in [*RINGS, "C1CC1C1CC1", f"C1CCCCC1{tail}"]]


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "molecules.smi").write_text("\n".join(SMILES) + "\n")
    options = {
        "config": "configs/molecule/fingerprint_nci.yaml",
        "data.init_args.source": folder / "molecules.smi",
        "data.init_args.cache_dir": folder,
        "data.init_args.batch_size": 32,
        "model.encoder.init_args.num_hidden": 8,
        "run_dir": folder / "run",
        "trainer.max_steps": 2,
        "wandb": "off",
    }
    done = command("pretrain", *(f"--{key}={value}" for key, value in options.items()))
    assert done.returncode == 0, done.stderr
    return folder / "run"


def _evaluate(run, data):
    options = [
        "--data",
        data,
        "--num_steps=3",
        "--num_seeds=2",
        "--precision=bf16-mixed",
        f"--cache_dir={data}",
    ]
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "evaluate_molecules.py", run, *options],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
    )


def test_the_table_is_written_and_continued(run, tmp_path):
    y = np.random.default_rng(0).integers(0, 2, (2, len(SMILES)))
    for name, column in (("bbbp", "p_np"), ("bace", "Class")):
        rows = [f"{s},{v}" for s, v in zip(SMILES, y[len(name) % 2])]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"smiles,{column}", *rows]) + "\n")
    done = _evaluate(run, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = run / "results" / "molecules"
    summary = json.loads((folder / "summary.json").read_text())
    assert "NaN" not in (folder / "summary.json").read_text()  # as the interval of one fit, which JSON lacks
    assert list(summary["sets"]) == ["bbbp", "bace"]
    protocol = json.loads((folder / "bbbp.json").read_text())["protocol"]
    assert protocol["finetuning"]["precision"] == "bf16-mixed"
    cells = {n: json.loads((folder / f"{n}.json").read_text())["cells"] for n in ("bbbp", "bace")}
    tests = {
        kind: [cell["test_last"] for of in cells.values() for cell in of if cell["kind"] == kind]
        for kind in ("scratch", "finetuned")
    }
    expected = 100 * (np.mean(tests["finetuned"]) - np.mean(tests["scratch"]))
    assert summary["difference"]["fine-tuned, last epoch"]["mean"] == pytest.approx(expected)
    of_kind = {
        kind: [cell["test"] for of in cells.values() for cell in of if cell["kind"] == kind]
        for kind in ("untrained", "frozen")
    }
    expected = 100 * (np.mean(of_kind["frozen"]) - np.mean(of_kind["untrained"]))
    assert summary["difference"]["frozen"]["mean"] == pytest.approx(expected)
    table = (folder / "summary.md").read_text()
    assert "| no pretraining, fine-tuned, last epoch |" in table and "paired by seed" in table
    written = (folder / "bbbp.json").stat().st_mtime_ns
    assert _evaluate(run, tmp_path).returncode == 0
    assert (folder / "bbbp.json").stat().st_mtime_ns == written  # nothing was left to do


def test_what_another_protocol_wrote_is_not_mixed_in(run, tmp_path):
    output = run / "results" / "molecules" / "bbbp.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"protocol": {}, "encoder": "", "parts": {}, "cells": []}))
    rows = [f"{s},{i % 2}" for i, s in enumerate(SMILES)]
    (tmp_path / "bbbp.csv").write_text("\n".join(["smiles,p_np", *rows]) + "\n")
    done = _evaluate(run, tmp_path)
    assert done.returncode == 1 and "bbbp.json holds results of another protocol" in done.stderr


def test_the_summary_averages_over_seeds():
    script = runpy.run_path(str(ROOT / "scripts" / "evaluate_molecules.py"))
    cells = [{"kind": "scratch", "seed": s, "val": 0.6, "test": t} for s, t in enumerate((0.59, 0.61))]
    row = script["summarise"](cells)[0]
    half = 0.01 * 12.706  # Student's 97.5 % with one degree of freedom
    assert row["test"] == pytest.approx(0.6)
    assert row["test_ci95"] == pytest.approx([0.6 - half, 0.6 + half], abs=1e-3)


def test_an_empty_folder_is_an_error(run, tmp_path):
    done = _evaluate(run, tmp_path)
    assert done.returncode == 1 and "holds none of bbbp.csv, bace.csv" in done.stderr


def _budgets(run, data, *options):
    arguments = [run, run, "--data", data, "--output", data / "budgets.json", "--cache-dir", data, *options]
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "finetuning_budgets.py", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
    )


def test_either_side_has_at_every_budget_its_rate_by_validation(run, tmp_path):
    rng = np.random.default_rng(0)
    for name, column in (("bbbp", "p_np"), ("bace", "Class")):
        rows = [f"{s},{rng.integers(2)}" for s in SMILES]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"smiles,{column}", *rows]) + "\n")
    steps = ["--steps", "2", "6"]  # an epoch, and two
    done = _budgets(run, tmp_path, *steps, "--encoder-lrs", "1e-3", "3e-2")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "budgets.json").read_text())
    cells = written["cells"]
    assert len(cells) == 2 * 2 * 2 * 2 * 2  # budgets, sides, rates, sets, seeds

    def mean(score, **key):
        return 100 * np.mean([cell[score] for cell in cells if key.items() <= cell.items()])

    for epochs, row in zip((1, 2), written["rows"], strict=True):
        rates = {}
        for side in ("scratch", "finetuned"):
            val = {lr: mean("val", side=side, epochs=epochs, encoder_lr=lr) for lr in (1e-3, 3e-2)}
            rates[side] = row[f"{side}_encoder_lr"]
            assert val[rates[side]] == max(val.values())
        gain, none = (
            mean("test_last", side=side, epochs=epochs, encoder_lr=rates[side])
            for side in ("finetuned", "scratch")
        )
        assert row["gain_test_last"] == pytest.approx(gain - none)
    again = _budgets(run, tmp_path, *steps, "--encoder-lrs", "1e-3", "3e-2")
    assert again.stdout == done.stdout and json.loads((tmp_path / "budgets.json").read_text()) == written
    other = _budgets(run, tmp_path, *steps, "--lr", "0.1")
    assert other.returncode == 1 and "holds fits of other runs or settings" in other.stderr
