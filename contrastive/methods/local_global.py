"""Local against global: nodes know the graph that they are in (InfoGraph), or that it is whole (DGI)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations.graph import Identity
from augmentations.random import SampleRandom
from contrastive.data import Batch
from contrastive.link_losses import at_least_float32
from contrastive.module import ContrastiveModule
from contrastive.optimizers import ScheduleCallable
from encoders.graph import GraphEncoder
from encoders.graph_batch import GraphBatch
from encoders.heads import MLPHead


def jensen_shannon(positive: Tensor, negative: Tensor, *, tau_plus: float = 0.0, beta: float = 0.0) -> Tensor:
    """Jensen–Shannon bound on mutual information, negated: E₊[softplus(−s)] + E₋[softplus(s)].

    f-GAN's estimator (Nowozin et al. 2016, arXiv 1606.00709) as in InfoGraph and DGI, without its constant.
    With β the negatives are drawn with q(s) ∝ e^{βs} p(s), so that *near* ones weigh more (Robinson et al.
    2021, arXiv 2010.04592): E₋ is the mean under softmax(βs). The authors' published code for graphs has the
    sign of its weights reversed, so that the *easiest* negatives weigh most; here the paper's order holds.
    With τ⁺, the chance that a negative shares the class, E₋ becomes (E₋ − τ⁺ E₊[softplus(s)]) / (1 − τ⁺),
    at least 0 (Chuang et al. 2020, arXiv 2007.00224).

    Args:
        positive: scores of the pairs that belong together, any shape; computed in float32 at least.
        negative: scores of the others, any shape, none empty.
        tau_plus: 0 ≤ τ⁺ < 1.
        beta: β ≥ 0.

    Returns:
        ``()``.
    """
    if not 0 <= tau_plus < 1 or beta < 0:
        raise ValueError(f"expected 0 ≤ tau_plus < 1 and beta ≥ 0, but they are {tau_plus} and {beta}")
    if positive.numel() == 0 or negative.numel() == 0:
        raise ValueError("there are no positives or no negatives; give a batch of at least two graphs")
    positive, negative = at_least_float32(positive), at_least_float32(negative.flatten())
    attraction = F.softplus(-positive).mean()
    weight = (beta * negative).softmax(0)
    repulsion = (weight * F.softplus(negative)).sum()
    if tau_plus:
        repulsion = ((repulsion - tau_plus * F.softplus(positive).mean()) / (1 - tau_plus)).clamp(min=0)
    return attraction + repulsion


class _LocalGlobal(ContrastiveModule):
    """What InfoGraph and DGI share: one view, and a loss of scores.

    Args:
        encoder: a ``GraphEncoder``.
        projector: called with ``encoder.num_features``, gives the head of the graphs.
        view: an augmentation; none as in the papers.
        tau_plus: probability that a negative is none, as a graph of the same class, or a shuffled node that
            fits its place nevertheless; 0 turns debiasing off.
        beta: how much near negatives weigh.
        optimizer: called with the parameter groups, biases and norms without weight decay; None is AdamW
            at torch's rate of 1e-3.
        warmup_epochs: epochs in which the learning rate rises from 0; then it falls along a cosine.
        schedule: called with the optimizer, gives another schedule of torch's, which counts steps.
        seed: of augmentations and corruptions; ``pretrain`` takes it from ``seed_everything``.
    """

    def __init__(
        self,
        encoder: GraphEncoder,
        *,
        projector: Callable[[int], nn.Module],
        view: nn.Module | None = None,
        tau_plus: float = 0.0,
        beta: float = 0.0,
        optimizer: OptimizerCallable | None = None,
        warmup_epochs: float = 1,
        schedule: ScheduleCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            encoder,
            [view or Identity()],
            projector=projector,
            optimizer=optimizer,
            warmup_epochs=warmup_epochs,
            schedule=schedule,
            channels_last=False,
            seed=seed,
        )
        self.tau_plus, self.beta = tau_plus, beta

    def view(self, batch: Batch) -> GraphBatch:
        """One view of the batch."""
        random = SampleRandom(batch.index, seed=self.seed, epoch=self.current_epoch)
        return self.views[0](batch.input, random)


class InfoGraph(_LocalGlobal):
    """Nodes score high with their own graph and low with the others (Sun et al. 2020, arXiv 1908.01000).

    s_vg = f_l(h_v)·f_g(g) with two heads, and `jensen_shannon` of them. With several processes the graphs of
    each are contrasted among themselves.

    Args:
        encoder: a ``GraphEncoder``.
        num_hidden: width of the heads.
        arguments: ``view``, ``tau_plus``, ``beta``, ``optimizer``, ``warmup_epochs``, ``schedule``, ``seed``.
    """

    def __init__(self, encoder: GraphEncoder, *, num_hidden: int = 256, **arguments: Any) -> None:
        head = partial(MLPHead, hidden_features=num_hidden, out_features=num_hidden)
        super().__init__(encoder, projector=head, **arguments)
        self.local_projector = head(encoder.num_node_features)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Contrast every node with every graph of the batch."""
        view = self.view(batch)
        nodes, graphs = self.encoder.nodes_and_graphs(view)  # type: ignore[operator]
        scores = _products(self.local_projector(nodes), self.projector(graphs).T)
        own = F.one_hot(view.graph_of_node, view.num_graphs).bool()
        loss = jensen_shannon(scores[own], scores[~own], tau_plus=self.tau_plus, beta=self.beta)
        return {"loss": loss, "h": graphs.detach(), "z": graphs.detach()}


class DGI(_LocalGlobal):
    """Nodes score high with their graph's summary, and low where the features were shuffled between nodes.

    Deep Graph Infomax (Veličković et al. 2019, arXiv 1809.10341): s_v = h_vᵀ W σ(mean h), and
    `jensen_shannon` of the scores of the graph and of its corruption, which is binary cross-entropy. An
    encoder's ``propagation`` is left out: it smooths what has been learnt, as Zheng et al. do (2022, arXiv
    2206.01535).

    Args:
        encoder: a ``NodeEncoder``.
        arguments: ``view``, ``tau_plus``, ``beta``, ``optimizer``, ``warmup_epochs``, ``schedule``, ``seed``.
    """

    def __init__(self, encoder: GraphEncoder, **arguments: Any) -> None:
        super().__init__(encoder, projector=_bilinear, **arguments)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Contrast the nodes with those of a corrupted graph; ValueError where there are several graphs."""
        view = self.view(batch)
        if view.num_graphs != 1:
            raise ValueError(
                f"the batch has {view.num_graphs} graphs, and DGI contrasts the nodes of one, as NodeData "
                "gives it; take InfoGraph for many"
            )
        order = SampleRandom(batch.index, seed=self.seed, epoch=self.current_epoch, view=1)
        shuffled = view.x[order.permutation(view.num_nodes)[0]]
        local: Any = getattr(self.encoder, "local", self.encoder)
        h, corrupted = (local(part) for part in (view, view.with_features(x=shuffled)))
        summary = self.projector(h.mean(0).sigmoid())
        scores = (_products(part, summary) for part in (h, corrupted))
        loss = jensen_shannon(*scores, tau_plus=self.tau_plus, beta=self.beta)
        return {"loss": loss, "h": h.detach(), "z": h.detach()}


def _products(local: Tensor, summaries: Tensor) -> Tensor:
    """Scores in float32 at least: rounded to 16 bits they would overflow, or their e^{βs} be far off."""
    with torch.autocast(local.device.type, enabled=False):
        return at_least_float32(local) @ at_least_float32(summaries)


def _bilinear(num_features: int) -> nn.Module:
    return nn.Linear(num_features, num_features, bias=False)
