"""Gradient caching against the plain backward pass over the concatenated batch."""

import os
import socket
from contextlib import nullcontext

import pytest
import pytorch_lightning as pl
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from contrastive.gradient_cache import cached_backward
from contrastive.losses import CrossModalInfoNCE, HardNegativeInfoNCE, InfoNCE

NUM_MICRO_BATCHES, MICRO_BATCH_SIZE, NUM_STEPS = 4, 6, 3
LOSSES = {"info_nce": InfoNCE, "hard_negative": HardNegativeInfoNCE, "cross_modal": CrossModalInfoNCE}


class Model(nn.Module):
    def __init__(self, loss, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 5))
        self.loss = loss
        self.double()  # so that only an error, not rounding, tells the two ways apart

    def encode(self, batch):
        return self.encoder(batch[0]), self.encoder(batch[1])

    def gradients(self):
        return {name: p.grad.clone() for name, p in self.named_parameters()}


def micro_batches(sizes=(MICRO_BATCH_SIZE,) * NUM_MICRO_BATCHES, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, size, 8, generator=generator, dtype=torch.float64) for size in sizes]


def assert_all_close(ours, expected):
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("sizes", [(24,), (6, 6, 6, 6), (10, 10, 4)])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_big_batch(name, sizes):
    big, model = Model(LOSSES[name]()), Model(LOSSES[name]())
    expected = big.loss(*big.encode(torch.cat(micro_batches(sizes), dim=1)))
    expected.backward()
    loss = cached_backward(model.encode, micro_batches(sizes), model.loss, torch.Tensor.backward)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-9, atol=0)
    assert_all_close(model.gradients(), big.gradients())


def test_random_numbers_are_replayed():
    """With dropout, the graph must be that of the projections whose loss was taken."""
    big, model = Model(InfoNCE(), dropout=0.5), Model(InfoNCE(), dropout=0.5)
    torch.manual_seed(2)
    projections = [big.encode(batch) for batch in micro_batches()]
    big.loss(*[torch.cat(view) for view in zip(*projections)]).backward()
    state = torch.get_rng_state()

    torch.manual_seed(2)
    cached_backward(model.encode, micro_batches(), model.loss, torch.Tensor.backward)
    assert_all_close(model.gradients(), big.gradients())
    assert torch.equal(torch.get_rng_state(), state)  # the next draw is what it would have been


def test_weights_cast_by_autocast_get_their_gradients():
    big, model = Model(InfoNCE()).float(), Model(InfoNCE()).float()
    batches = [batch.float() for batch in micro_batches((2, 2))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        big.loss(*big.encode(torch.cat(batches, dim=1))).backward()
        cached_backward(model.encode, batches, model.loss, torch.Tensor.backward)
    for name, gradient in model.gradients().items():
        torch.testing.assert_close(gradient, big.gradients()[name], rtol=0.05, atol=1e-3, msg=name)


def test_one_graph_at_a_time():
    """No more activations are alive at once than one micro-batch keeps."""
    model, alive, most = Model(InfoNCE()), 0, []

    class Activation(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            nonlocal alive
            alive -= 1
            return gradient

    def encode(batch):
        nonlocal alive
        z0, z1 = model.encode(batch)
        if torch.is_grad_enabled():
            alive += 1
            most.append(alive)
            z0 = Activation.apply(z0)
        return z0, z1

    cached_backward(encode, micro_batches(), model.loss, torch.Tensor.backward)
    assert most == [1] * NUM_MICRO_BATCHES


class CachedModule(pl.LightningModule):
    """`cached_backward` as its docstring shows it; a batch is a list of micro-batches."""

    def __init__(self, loss):
        super().__init__()
        self.automatic_optimization = False
        self.model = Model(loss)
        self.num_reductions = 0

    def training_step(self, batch, _):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        cached_backward(
            encode=self.model.encode,
            micro_batches=batch,
            loss=self.model.loss,
            backward=self.manual_backward,
            no_sync=getattr(self.trainer.strategy, "block_backward_sync", nullcontext),
        )
        optimizer.step()

    def on_train_start(self):
        def counting(state, bucket):
            self.num_reductions += bucket.is_last()
            return allreduce_hook(state, bucket)

        if dist.is_initialized():
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

            self.trainer.strategy.model.register_comm_hook(None, counting)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def train(make_loss, rank=0, world_size=1):
    """Weights after steps of SGD in which this rank sees its share of the micro-batches."""
    module = CachedModule(make_loss())
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    data = [micro_batches(seed=step)[rank::world_size] for step in range(NUM_STEPS)]
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    return {name: p.detach() for name, p in module.model.named_parameters()}, module.num_reductions


def big_batch_weights(make_loss):
    model = Model(make_loss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        model.loss(*model.encode(torch.cat(micro_batches(seed=step), dim=1))).backward()
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def work(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "test",  # as under torchrun: Lightning starts no processes of its own
    }
    dist.init_process_group("gloo")
    torch.save({name: train(make_loss, rank, 2) for name, make_loss in LOSSES.items()}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.set_forkserver_preload(["pytorch_lightning"])  # imported once for all processes
    multiprocessing.start_processes(work, (port, folder), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", LOSSES)
def test_lightning_equals_the_big_batch(name):
    weights, _ = train(LOSSES[name])
    assert_all_close(weights, big_batch_weights(LOSSES[name]))


@pytest.mark.parametrize("name", LOSSES)
def test_ddp_equals_the_big_batch_and_reduces_once_a_step(name, ranks):
    expected = big_batch_weights(LOSSES[name])
    for rank in ranks:
        weights, num_reductions = rank[name]
        assert_all_close(weights, expected)
        assert num_reductions == NUM_STEPS
