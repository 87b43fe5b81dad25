"""``contrastive pretrain`` on several processes and in micro-batches ends with one process's weights."""

import pytest
import torch
from forked import free_port, write_rings

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
    return write_rings(tmp_path_factory.mktemp("tu") / "RINGS", num_graphs=32)


@pytest.mark.slow
def test_the_same_weights(command, source, tmp_path, monkeypatch):
    weights = {}
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
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
