"""Choosing between encoders by cross-validation: ridge regression against scikit-learn, folds, the script."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from contrastive.data.splits import scaffold, scaffold_split

pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")

SCRIPTS = Path(__file__).parent.parent / "scripts"
RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "c1ccccc1", "c1ccncc1", "c1ccoc1", "C1CCNCC1", "C1CCOCC1", "c1ccsc1"]
SMILES = [ring + tail for tail in ["C", "CC", "CO", "CN", "CCl", "CC#N", "CF", "CS"] for ring in RINGS]


@pytest.fixture
def select(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import select_molecules

    return select_molecules


@pytest.fixture
def folder(tmp_path):
    """BBBP's file, with a label that the nitrogen in a ring decides."""
    with (tmp_path / "bbbp.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("smiles", "p_np"), *((s, int("n" in s.lower())) for s in SMILES)])
    return tmp_path


def test_ridge_scores_are_scikit_learns(select):
    rng = np.random.default_rng(0)
    h, held_out = rng.normal(size=(40, 6)), rng.normal(size=(9, 6))
    h -= h.mean(0)
    y = (h[:, :2] + rng.normal(size=(40, 2)) > 0).astype(float)
    y[:7, 1] = np.nan
    ours = select.ridge_scores(*map(torch.from_numpy, (h, y, held_out)))
    for task, known in enumerate((slice(None), slice(7, None))):
        target = 2 * y[known, task] - 1
        for i, strength in enumerate(select.STRENGTHS):
            model = Ridge(alpha=strength, fit_intercept=False).fit(h[known], target - target.mean())
            np.testing.assert_allclose(ours[i, :, task], model.predict(held_out), atol=1e-9)


def test_no_test_molecule_and_no_scaffold_in_two_folds(select, folder):
    seen, y, fold = select.labelled_sets(str(folder), str(folder))["bbbp"]
    test = scaffold_split(SMILES).test
    assert not {SMILES[i] for i in test} & set(seen.smiles) and len(seen) == len(SMILES) - len(test) == len(y)
    folds_of = {}
    for smiles, f in zip(seen.smiles, fold):
        folds_of.setdefault(scaffold(smiles), set()).add(f)
    assert all(len(folds) == 1 for folds in folds_of.values()) and set(fold) == set(range(5))


def test_features_that_tell_score_one_and_noise_does_not(select):
    rng = np.random.default_rng(0)
    y, fold = rng.integers(0, 2, (200, 1)).astype(np.float32), np.arange(200) % 5
    noise = rng.normal(size=(200, 3)).astype(np.float32)
    assert select.cross_validated(torch.from_numpy(np.hstack([noise, y])), y, fold) == 1
    assert 0.3 < select.cross_validated(torch.from_numpy(noise), y, fold) < 0.7


def test_the_script_prints_a_row_a_run_and_an_untrained_encoder(command, folder):
    (folder / "m.smi").write_text("\n".join(SMILES) + "\n")
    options = {
        "config": "configs/molecule/fingerprint_nci.yaml",
        "data.init_args.source": folder / "m.smi",
        "data.init_args.cache_dir": folder,
        "data.init_args.batch_size": 32,
        "model.encoder.init_args.num_hidden": 8,
        "run_dir": folder / "run",
        "trainer.max_steps": 1,
        "wandb": "off",
    }
    done = command("pretrain", *(f"--{key}={value}" for key, value in options.items()))
    assert done.returncode == 0, done.stderr
    script = [sys.executable, SCRIPTS / "select_molecules.py", f"[{folder / 'run'}]", "--data", folder]
    done = subprocess.run(
        [*script, f"--cache_dir={folder}", "--untrained_seeds=1"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| pretrained")]
    assert len(rows) == 2 and "untrained, seed 0" in rows[1]
    assert all(50 <= float(row.split("|")[2]) <= 100 for row in rows)
