"""A run that ends at any step and is resumed goes on, to the bit, as if nothing had happened."""

import numpy as np
import pytest
import torch
from forked import start

COMMON = {
    "trainer.max_epochs": 3,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.log_every_n_steps": 1,
    "checkpoints.every_n_steps": 3,
    "collapse.every_n_steps": 2,
    "wandb": "off",
}
DATA = {
    "digits": {
        "config": "configs/image/simclr_digits.yaml",
        "model.encoder.init_args.width": 4,
        "data.init_args.train_subset": 320,
        "data.init_args.batch_size": 48,  # over all processes: 6 steps an epoch
        "knn.every_n_epochs": 1,
    },
    "graphs": {
        "config": "configs/graph/graphcl.yaml",
        "model.encoder.node_features": 65,
        "model.encoder.num_hidden": 8,
        "model.encoder.dropout": 0.2,  # torch's own random numbers
        "model.encoder.share_equal_nodes": "false",
        "data.init_args.batch_size": 16,
    },
}


@pytest.fixture(scope="module")
def rings(tmp_path_factory):
    """96 rings with chords, as TUDataset files without features."""
    folder = tmp_path_factory.mktemp("tu") / "RINGS"
    folder.mkdir()
    generator = np.random.default_rng(0)
    edges, indicator, first = [], [], 1
    for g in range(96):
        n = int(generator.integers(5, 9))
        chord = int(generator.integers(2, n - 1))
        for a, b in [*((i, (i + 1) % n) for i in range(n)), (0, chord)]:
            edges += [f"{first + a}, {first + b}", f"{first + b}, {first + a}"]
        indicator += [str(g + 1)] * n
        first += n
    (folder / "RINGS_A.txt").write_text("\n".join(edges))
    (folder / "RINGS_graph_indicator.txt").write_text("\n".join(indicator))
    return folder


@pytest.fixture(scope="module")
def pretrain(rings, tmp_path_factory):
    """Start pretraining in a folder; ``end`` is the signal that ends it, at which step."""

    def run(data, folder, *, workers=0, world_size=1, end=None, env=None, **settings):
        log = tmp_path_factory.mktemp("log") / "printed"
        options = (
            {"config": ""}
            | COMMON
            | DATA[data]
            | {  # the configuration comes first
                "run_dir": folder,
                "data.init_args.num_workers": workers,
            }
        )
        if data == "graphs":
            options["data.init_args.source"] = rings
        options["data.init_args.batch_size"] //= world_size
        if world_size > 1:
            options |= {"trainer.devices": world_size, "trainer.strategy": "ddp"}
        options |= settings
        args = [part for key, value in options.items() for part in (f"--{key}", value)]
        args += ["--trainer.callbacks+=interruptions.Losses", "--trainer.callbacks.file", f"{folder}/losses"]
        if end:
            args += ["--trainer.callbacks+=interruptions.SignalAt", "--trainer.callbacks.step", end[1]]
            args += ["--trainer.callbacks.name", end[0]]
        return start(["pretrain", *args], log, world_size=world_size, env=env)

    return run


@pytest.fixture(scope="module")
def uninterrupted(pretrain, tmp_path_factory):
    """The run folder of a run that nothing ended, made once for each kind of data and number of processes."""
    folders = {}

    def of(data, world_size):
        if (data, world_size) not in folders:
            folder = tmp_path_factory.mktemp("whole") / data
            run = pretrain(data, folder, world_size=world_size)
            assert run.wait() == 0, run.printed
            folders[data, world_size] = folder
        return folders[data, world_size]

    return of


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same(a, b, where=""):
    """Equal to the bit, through dictionaries and lists."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def steps(folder, rank):
    """The last line of each step: a step that was taken again after a resume has two, equal ones."""
    lines = (folder / f"losses-{rank}").read_text().splitlines()
    by_step = {}
    for line in lines:
        number = line.split()[0]
        assert by_step.setdefault(number, line) == line, "a step taken again differs"
    return [by_step[key] for key in sorted(by_step, key=int)]


def assert_same_run(folder, whole, world_size):
    for rank in range(world_size):
        assert steps(folder, rank) == steps(whole, rank)
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    resumed, expected = last(folder), last(whole)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_same(resumed[part], expected[part], part)
    assert resumed["global_step"] == 18


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("data", ["digits", "graphs"])
def test_sigkill(data, workers, world_size, pretrain, uninterrupted, tmp_path):
    whole = uninterrupted(data, world_size)
    run = pretrain(data, tmp_path, workers=workers, world_size=world_size, end=("SIGKILL", 10))
    assert run.wait() == -9, run.printed
    assert last(tmp_path)["global_step"] == 9  # the fourth of the second epoch's six
    run = pretrain(data, tmp_path, workers=workers, world_size=world_size, ckpt_path="last")
    assert run.wait() == 0, run.printed
    assert_same_run(tmp_path, whole, world_size)
