"""What several tests share: a small pretrained run, and the command as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from encoders import message_passing


@pytest.fixture(scope="session")
def command():
    """Run the console command in a process of its own; returns the finished process with its text."""

    def run(
        *args: str | Path, cwd: Path | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "contrastive.cli", *map(str, args)],
            cwd=cwd,
            text=True,
            capture_output=True,
            timeout=timeout,
            env={**os.environ, "COLUMNS": "200"},
        )

    return run


@pytest.fixture(scope="session")
def digits_run(command, tmp_path_factory) -> Path:
    """A run folder: two epochs of the digits recipe, with W&B offline as for a user without a key."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    done = command(
        "pretrain",
        "--config",
        "configs/image/simclr_digits.yaml",
        "--run_dir",
        folder,
        "--trainer.max_epochs",
        2,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(params=["dgl", "torch"])
def kernels(request, monkeypatch):
    """Run with DGL's kernels and, as if DGL were not installed, with torch's."""
    if request.param == "torch":
        monkeypatch.setattr(message_passing, "load_dgl", lambda: None)
    else:
        pytest.importorskip("dgl")
    return request.param


@pytest.fixture(scope="session")
def moleculenet() -> Path:
    """The folder of MoleculeNet's CSV files, where the environment names one: the project has none."""
    folder = os.environ.get("CONTRASTIVE_MOLECULENET")
    if not folder:
        pytest.skip("set CONTRASTIVE_MOLECULENET to a folder with MoleculeNet's bbbp.csv, bace.csv, …")
    return Path(folder)
