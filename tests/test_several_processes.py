"""Two processes compute what one does: batch norm over both, sharded weights, logged means, torchrun."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from forked import free_port, pretrain, server
from torch import distributed as dist
from torch import nn
from torch.utils.data import DistributedSampler

from contrastive import batch_norm
from contrastive.batch_norm import SyncBatchNorm, SyncedOnCPU
from contrastive.data.nodes import Passes

SGD = {"model.optimizer": "torch.optim.SGD", "model.optimizer.lr": 0.01, "model.warmup_epochs": 0}
PLAIN = {"model.encoder.norm": "false", "model.encoder.dropout": 0.0}
FSDP = {
    "trainer.strategy": "pytorch_lightning.strategies.ModelParallelStrategy",
    "trainer.strategy.data_parallel_size": 2,
    "trainer.strategy.tensor_parallel_size": 1,
    "trainer.strategy.save_distributed_checkpoint": "false",
}


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def files(folder):
    """What a run wrote, but for the tests' own note of each process."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "losses-" not in path.name}


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}


def assert_close(folder, expected):
    assert losses(folder) == pytest.approx(losses(expected), rel=1e-4)
    assert len(losses(folder)) == 18
    ours, theirs = weights(folder), weights(expected)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_batch_norm_over_two_processes_is_one_process_s(tmp_path):
    """The whole of a training step: digits, batch norm in encoder and head, momentum in the optimizer."""
    one, two = tmp_path / "one", tmp_path / "two"
    synced = {"trainer.sync_batchnorm": "true"}
    runs = [pretrain(one, **SGD), pretrain(two, world_size=2, **SGD, **synced)]
    for run in runs:
        assert run.wait() == 0, run.printed
    assert any("running_var" in key for key in weights(one))
    assert_close(two, one)
    assert files(two) == files(one)
    assert runs[1].printed.count("run folder: ") == 2  # at the start and at the end, from one process


def test_what_watches_the_online_knn_knows_it_in_every_process(tmp_path):
    watch = ("--trainer.callbacks+=pytorch_lightning.callbacks.EarlyStopping", "--trainer.callbacks.monitor")
    watch += ("knn_accuracy", "--trainer.callbacks.mode", "max", "--trainer.callbacks.patience", 1)
    run = pretrain(tmp_path / "run", world_size=2, callbacks=watch, **{"trainer.max_epochs": 2})
    assert run.wait() == 0, run.printed


def test_weights_shared_out_over_two_processes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    plain = SGD | PLAIN | {"model.optimizer.momentum": 0.9}
    settings = plain | FSDP
    runs = [pretrain(one, "graphs", **plain), pretrain(two, "graphs", world_size=2, **settings)]
    for run in runs:
        assert run.wait() == 0, run.printed
    assert_close(two, one)
    run = pretrain(tmp_path / "three", "graphs", world_size=2, end=("SIGKILL", 10), **settings)
    assert run.wait() == -9, run.printed
    run = pretrain(tmp_path / "three", "graphs", world_size=2, ckpt_path="last", **settings)
    assert run.wait() == 0, run.printed
    for key, value in weights(two).items():
        assert torch.equal(weights(tmp_path / "three")[key], value), key


def test_a_run_of_adam_s_is_shared_out_on_resume_and_taken_back(tmp_path):
    """Its moments are those of the right weights, which have no order of their own in a checkpoint."""
    one, other = tmp_path / "one", tmp_path / "other"
    runs = [pretrain(one, "graphs", **PLAIN), pretrain(other, "graphs", end=("SIGKILL", 5), **PLAIN)]
    assert [run.wait() for run in runs] == [0, -9], runs[0].printed
    sharded = pretrain(other, "graphs", world_size=2, end=("SIGKILL", 13), ckpt_path="last", **PLAIN, **FSDP)
    assert sharded.wait() == -9, sharded.printed
    run = pretrain(other, "graphs", ckpt_path="last", **PLAIN)
    assert run.wait() == 0, run.printed
    assert_close(other, one)


def test_convolutions_are_shared_out_though_they_lie_channels_last(tmp_path):
    run = pretrain(tmp_path / "run", world_size=2, **FSDP, **{"trainer.max_steps": 1})
    assert run.wait() == 0, run.printed


@pytest.mark.slow
def test_torchrun(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        free_port(),
    ]
    command += ["scripts/pretrain.py", "--config", "configs/image/simclr_digits.yaml"]
    command += ["--run_dir", tmp_path / "run", "--trainer.devices", 2, "--trainer.accelerator", "cpu"]
    command += ["--trainer.limit_train_batches", 2, "--trainer.max_epochs", 1, "--wandb", "off"]
    command += ["--trainer.log_every_n_steps", 1]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder: ") == 2  # at the start and at the end, from one process
    assert len(losses(tmp_path / "run")) == 2


def test_passes_over_a_graph_are_not_dealt_out():
    """Lightning would deal the passes to the processes, which share the nodes of each pass already."""
    passes = Passes(3)
    passes.set_epoch(2)
    assert isinstance(passes, DistributedSampler)
    assert list(passes) == [6, 7, 8]
    passes.start = 2
    assert list(passes) == [8]


def _normalised(rank, port, batch, slopes, queue):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    module = SyncedOnCPU().apply(nn.Sequential(nn.BatchNorm2d(3)).double())
    with torch.no_grad():
        module[0].weight.uniform_()
    share = slice(0, 3) if rank == 0 else slice(3, None)  # 3 images and 5
    x = batch[share].clone().requires_grad_()
    y = module(x)
    (y * slopes[share]).sum().backward()
    result = [y.detach(), x.grad, module[0].weight.grad, module[0].bias.grad, *module.buffers()]
    queue.put((rank, [tensor.numpy() for tensor in result]))
    dist.barrier()


def test_batch_norm_of_uneven_shares_in_float64():
    generator = torch.Generator().manual_seed(1)
    batch, slopes = torch.randn(2, 8, 3, 2, 4, dtype=torch.float64, generator=generator)
    queue, port = server.Queue(), free_port()
    processes = [server.Process(target=_normalised, args=(r, port, batch, slopes, queue)) for r in (0, 1)]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=400) for _ in processes)
    for process in processes:
        process.join(400)
        assert process.exitcode == 0
    first, second = ([torch.from_numpy(array) for array in results[rank]] for rank in (0, 1))
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        norm.weight.uniform_()
    x = batch.clone().requires_grad_()
    y = norm(x)
    (y * slopes).sum().backward()
    torch.testing.assert_close(torch.cat([first[0], second[0]]), y.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), x.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(first[2] + second[2], norm.weight.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(first[3] + second[3], norm.bias.grad, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(first[4:], norm.buffers()):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_one_process_has_torch_s_batch_norm():
    norm = SyncBatchNorm(4)
    x = torch.randn(5, 4)
    torch.testing.assert_close(norm(x), nn.BatchNorm1d(4)(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("short_weights", [False, True])
def test_batch_norm_over_processes_of_16_bits(monkeypatch, dtype, short_weights):
    """With the same samples on both processes, whose mean and variance are one's."""
    monkeypatch.setattr(batch_norm, "num_processes", lambda: 2)
    monkeypatch.setattr(batch_norm, "sum_over_ranks", lambda x: 2 * x)
    ours, theirs = SyncBatchNorm(4), nn.BatchNorm1d(4)
    x = (2 * torch.randn(999, 4) + 30).to(dtype)
    out, expected = (ours.to(dtype) if short_weights else ours)(x), theirs(x.float())
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0.01)
    for buffer, truth in zip(ours.buffers(), theirs.buffers()):
        torch.testing.assert_close(buffer.to(truth.dtype), truth, rtol=0.01, atol=0.01)
