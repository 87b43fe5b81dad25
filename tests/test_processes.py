"""``contrastive pretrain`` on several processes and in micro-batches ends with one process's weights."""

import numpy as np
import pytest
import torch

SETTINGS = {
    "model.encoder.node_features": 65,
    "model.encoder.num_hidden": 16,
    "model.encoder.norm": "false",  # batch norm would see each process's own samples
    "model.optimizer": "torch.optim.SGD",  # a gradient off by a factor shows in the weights
    "model.optimizer.lr": 0.1,
    "trainer.max_epochs": 3,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.log_every_n_steps": 1,
    "wandb": "off",
}
VARIANTS = {
    "one process": {"data.batch_size": 16},
    "two processes": {"data.batch_size": 8, "trainer.devices": 2, "trainer.strategy": "ddp"},
    "two processes in micro-batches": {
        "data.batch_size": 8,
        "trainer.devices": 2,
        "trainer.strategy": "ddp",
        "model.accumulate_negatives": 2,
    },
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """32 rings with chords, as TUDataset files without features."""
    folder = tmp_path_factory.mktemp("tu") / "RINGS"
    folder.mkdir()
    generator = np.random.default_rng(0)
    edges, indicator, first = [], [], 1
    for g in range(32):
        n = int(generator.integers(5, 9))
        chord = int(generator.integers(2, n - 1))
        for a, b in [*((i, (i + 1) % n) for i in range(n)), (0, chord)]:
            edges += [f"{first + a}, {first + b}", f"{first + b}, {first + a}"]
        indicator += [str(g + 1)] * n
        first += n
    (folder / "RINGS_A.txt").write_text("\n".join(edges))
    (folder / "RINGS_graph_indicator.txt").write_text("\n".join(indicator))
    return folder


@pytest.mark.slow
def test_the_same_weights(command, source, tmp_path):
    weights = {}
    for name, variant in VARIANTS.items():
        settings = {"data.source": source, "run_dir": tmp_path / name} | SETTINGS | variant
        arguments = [part for key, value in settings.items() for part in (f"--{key}", value)]
        done = command("pretrain", "--config", "configs/graph/graphcl.yaml", *arguments)
        assert done.returncode == 0, done.stderr
        checkpoint = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 6
        weights[name] = checkpoint["state_dict"]
        assert (tmp_path / name / "metrics.csv").is_file()
    first, *others = weights.values()
    for other in others:
        for key, value in first.items():
            torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-6, msg=key)
