"""Real processes under Lightning's DDP give what one process gives on the whole batch.

Each run takes several steps of SGD with accumulated and clipped gradients, so that a gradient off by any
factor shows in the weights. Two sets of processes (2 and 4) do all of it.
"""

import os

import pytest
import pytorch_lightning as pl
import torch
from forked import free_port
from torch import distributed as dist
from torch import multiprocessing, nn

from contrastive import distributed
from contrastive.correlation_losses import CCASSG, cca_ssg
from contrastive.link_losses import LinkBCE, LinkInfoNCE, LinkMargin
from contrastive.losses import (
    CrossModalInfoNCE,
    DebiasedInfoNCE,
    DecoupledInfoNCE,
    HardNegativeInfoNCE,
    InfoNCE,
    hard_negative_info_nce,
    info_nce,
    supervised_info_nce,
)

NUM_STEPS, BATCH_SIZE, WIDTH = 4, 12, 6


class QueueInfoNCE(nn.Module):
    def forward(self, z0, z1):
        return hard_negative_info_nce(z0, z1, negatives=torch.eye(WIDTH).to(z0)[:3])


class SupervisedInfoNCE(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, z0, z1, labels):
        return supervised_info_nce(z0, z1, labels, temperature=0.2, **self.options)


class OfLinks(nn.Module):
    """Rows of the first view are scores of queries; the second view says which of their candidates count."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, z0, z1):
        return self.loss(z0, z1 > 0.2, z1 < -0.1)


LOSSES = {
    "info_nce": lambda: InfoNCE(temperature=0.2),
    "info_nce at a low temperature": lambda: InfoNCE(temperature=0.015),
    "debiased": lambda: DebiasedInfoNCE(temperature=0.5),
    "hard_negative": lambda: HardNegativeInfoNCE(temperature=0.5),
    "hard_negative at a low temperature": lambda: HardNegativeInfoNCE(
        temperature=0.05, tau_plus=0.01, beta=2.0
    ),
    "decoupled": lambda: DecoupledInfoNCE(temperature=0.2),
    "supervised": SupervisedInfoNCE,
    "supervised across": lambda: SupervisedInfoNCE(positives="across"),
    "cross_modal": lambda: CrossModalInfoNCE(temperature=0.2),
    "further negatives": QueueInfoNCE,
    "cca_ssg": lambda: CCASSG(decorrelation=0.1),
    "links, cross-entropy": lambda: OfLinks(LinkBCE(beta=0.5)),
    "links, InfoNCE": lambda: OfLinks(LinkInfoNCE()),
    "links, margin": lambda: OfLinks(LinkMargin()),
}


class Model(pl.LightningModule):
    def __init__(self, loss):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, WIDTH))
        self.loss = loss
        self.history = []
        self.double()

    def training_step(self, batch, _):
        x0, x1, labels = batch
        labels = [labels] if isinstance(self.loss, SupervisedInfoNCE) else []
        loss = self.loss(self.encoder(x0), self.encoder(x1), *labels)
        self.history.append(float(loss))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)


def batches(rank=0, world_size=1):
    """This rank's contiguous share of every global batch."""
    generator = torch.Generator().manual_seed(1)
    own = slice(rank * BATCH_SIZE // world_size, (rank + 1) * BATCH_SIZE // world_size)
    for _ in range(NUM_STEPS):
        x0 = torch.randn(BATCH_SIZE, 8, generator=generator, dtype=torch.float64)
        x1 = x0 + 0.5 * torch.randn(BATCH_SIZE, 8, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 4, (BATCH_SIZE,), generator=generator)
        yield x0[own], x1[own], labels[own]


def train(make_loss, rank=0, world_size=1):
    """The losses of all steps, and the weights after them."""
    model = Model(make_loss())
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        max_epochs=1,
        accumulate_grad_batches=2,
        gradient_clip_val=0.05,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader(list(batches(rank, world_size)), batch_size=None))
    return {"history": model.history, "weights": {k: p.detach() for k, p in model.named_parameters()}}


def rows_and_gradients(rank=0, world_size=1):
    """Unreduced losses, weighted row by row, and the gradients by the inputs and the temperature."""
    x0, x1, _ = next(batches(rank, world_size))
    x0.requires_grad_(), x1.requires_grad_()
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rows = hard_negative_info_nce(x0, x1, temperature=temperature, reduction="none")
    (rows * x0.detach()[:, 0].repeat(2)).sum().backward()
    return {"rows": rows.detach().view(2, -1), "x0": x0.grad, "x1": x1.grad, "temperature": temperature.grad}


def uneven_correlation(rank=0, world_size=1):
    """The loss of a batch of which every rank has another share, and its gradients by the rank's rows."""
    x0, x1, _ = next(batches())
    own = torch.arange(BATCH_SIZE).tensor_split([5, 7, 10][: world_size - 1])[rank]
    x0, x1 = x0[own].requires_grad_(), x1[own].requires_grad_()
    loss = cca_ssg(x0, x1, decorrelation=0.1)
    loss.backward()
    return {"loss": loss.detach(), "x0": x0.grad / world_size, "x1": x1.grad / world_size}


def collective_sizes():
    """Elements that each collective of one InfoNCE step sends, in order."""
    sizes, all_gather = [], dist.all_gather

    def counting(outputs, x):
        sizes.append(x.numel())
        all_gather(outputs, x)

    distributed.dist.all_gather = counting
    try:
        info_nce(*torch.randn(2, 5, 3, requires_grad=True)).backward()
    finally:
        distributed.dist.all_gather = all_gather
    return sizes


def uneven_error(rank):
    try:
        info_nce(*torch.randn(2, 3 if rank == 0 else 2, 5))
    except ValueError as error:
        return str(error)


def work(rank, world_size, port, folder):
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "TORCHELASTIC_RUN_ID": "test",  # as under torchrun: Lightning starts no processes of its own
    }
    dist.init_process_group("gloo")
    results = {name: train(make_loss, rank, world_size) for name, make_loss in LOSSES.items()}
    results["rows"] = rows_and_gradients(rank, world_size)
    results["uneven correlation"] = uneven_correlation(rank, world_size)
    results["collectives"] = collective_sizes()
    results["uneven"] = uneven_error(rank)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    """What every rank found, in order."""
    folder = tmp_path_factory.mktemp("ranks")
    port = free_port()
    multiprocessing.set_forkserver_preload(["pytorch_lightning"])  # imported once for all processes
    multiprocessing.start_processes(
        work, (request.param, port, folder), nprocs=request.param, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone():
    return {name: train(make_loss) for name, make_loss in LOSSES.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_training_equals_one_process_on_the_whole_batch(name, ranks, alone):
    mean_over_ranks = torch.tensor([rank[name]["history"] for rank in ranks], dtype=torch.float64).mean(0)
    expected = torch.tensor(alone[name]["history"], dtype=torch.float64)
    torch.testing.assert_close(mean_over_ranks, expected, rtol=1e-9, atol=0)
    for rank in ranks:
        for key, weight in alone[name]["weights"].items():
            torch.testing.assert_close(rank[name]["weights"][key], weight, rtol=1e-9, atol=1e-9, msg=key)


def test_learned_temperature_moves(alone):
    weights = alone["cross_modal"]["weights"]
    assert abs(weights["loss.log_scale"] - torch.tensor(5.0).log()) > 1e-6


def test_unreduced_rows_with_weights_of_their_own(ranks):
    """Without DDP nothing is averaged: the gradients are those of the sum of the processes' losses."""
    expected = rows_and_gradients()
    together = {key: torch.cat([rank["rows"][key] for rank in ranks]) for key in ("x0", "x1")}
    together["rows"] = torch.cat([rank["rows"]["rows"] for rank in ranks], dim=1)
    together["temperature"] = torch.stack([rank["rows"]["temperature"] for rank in ranks]).sum()
    for key, value in expected.items():
        torch.testing.assert_close(together[key], value, rtol=1e-9, atol=1e-12, msg=key)


def test_correlations_of_shares_of_any_size(ranks):
    shares = [rank["uneven correlation"] for rank in ranks]
    expected = uneven_correlation()
    for share in shares:
        torch.testing.assert_close(share["loss"], expected["loss"], rtol=1e-12, atol=0)
    for key in ("x0", "x1"):
        torch.testing.assert_close(
            torch.cat([share[key] for share in shares]), expected[key], rtol=1e-9, atol=1e-12
        )


def test_one_collective_for_projections_and_one_for_row_statistics(ranks):
    shape, projections, statistics = ranks[0]["collectives"]
    assert (shape, projections, statistics) == (3, 2 * 5 * 3, 2 * 2 * 5)


def test_uneven_batches_are_refused_everywhere(ranks):
    shapes = [(6, 5)] + [(4, 5)] * (len(ranks) - 1)
    for rank in ranks:
        assert str(shapes) in rank["uneven"] and "drop_last=True" in rank["uneven"]
