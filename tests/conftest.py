"""What several tests share: a small pretrained run, and the command as a user calls it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import forked
import link_cases
import molecule_cases
import pytest
import torch
from torch import nn

from contrastive.features import FrozenEncoder
from encoders import message_passing
from encoders.graph import GraphEncoder


@pytest.fixture(scope="session")
def command():
    """Run the console command in a process of its own; returns the finished process with its text."""

    def run(
        *args: str | Path, cwd: Path | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        return forked.run(args, cwd=cwd, timeout=timeout)

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


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The run folder of a run that nothing ended, made once for each kind of data and number of processes."""
    folders = {}

    def of(data, world_size=1):
        if (data, world_size) not in folders:
            folder = tmp_path_factory.mktemp("whole") / data
            run = forked.pretrain(folder, data, world_size=world_size)
            assert run.wait() == 0, run.printed
            folders[data, world_size] = folder
        return folders[data, world_size]

    return of


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


@pytest.fixture(params=[True, False], ids=["undirected", "directed"])
def links(request, tmp_path):
    """Random links of three relations between 24 nodes."""
    return link_cases.random_links(tmp_path, request.param)


@pytest.fixture
def small_tiles(monkeypatch):
    """Small batches of a loss meet many tiles, and tiles cut short."""
    monkeypatch.setattr("contrastive.streaming.TILE", 8)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Features and canonical SMILES are kept in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def molecule_table(tmp_path) -> Path:
    """A table of molecules, with the columns of `molecule_cases.write_table`."""
    molecule_cases.write_table(tmp_path / "toy.csv")
    return tmp_path / "toy.csv"


@pytest.fixture
def molecule_encoder() -> FrozenEncoder:
    """A small untrained encoder of molecules."""
    torch.manual_seed(0)
    spec = molecule_cases.ENCODER
    return FrozenEncoder(GraphEncoder(**spec["init_args"]), nn.Identity(), {"model": {"encoder": spec}})
