"""Pretraining: views → encoder → projector → loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from augmentations.colour import Normalize
from augmentations.random import SampleRandom, seed_of
from contrastive.data import Batch, concatenate, split_batch
from contrastive.features import default_preprocess, start_from
from contrastive.gradient_cache import cached_backward
from contrastive.losses import InfoNCE
from contrastive.optimizers import ScheduleCallable, built, decay_groups, scheduled
from contrastive.sharding import shard
from encoders.heads import MLPHead

_OF_IMAGES = {f"augmentations.{name}" for name in ("image", "geometry", "colour")} | {
    nn.ModuleList.__module__
}


class ContrastiveModule(LightningModule):
    """Two random views of every sample attract each other; the rest of the batch repels (arXiv 2002.05709).

    Nothing here knows whether the samples are images or graphs.

    Args:
        encoder: maps a view to features ``h`` of ``(N, encoder.num_features)``. This is what is kept.
        views: the augmentations of the two views, called as ``view(input, random)``; one serves for both. Of
            images they take uint8 ``(N, C, H, W)`` and return float, normalised as ``preprocess`` does.
        projector: called with ``encoder.num_features``, gives the head whose output ``z`` the loss sees.
        loss: called as ``loss(z0, z1)`` with two ``(N, D)`` projections; InfoNCE where none is given.
        preprocess: what an input needs before the encoder when nothing is augmented; kept with the encoder.
        optimizer: called with the parameter groups, biases and norms without weight decay; None is AdamW
            at torch's rate of 1e-3.
        warmup_epochs: epochs in which the learning rate rises from 0; then it falls along a cosine.
        schedule: called with the optimizer, gives another schedule of torch's, which counts steps.
        channels_last: lay convolutions out channels last: faster on CPU and with tensor cores. With fewer
            than 8 channels a CPU has no kernel for it and takes minutes a step: turn it off there.
        accumulate_negatives: split every batch in so many micro-batches and hold the graph of one at a time
            (`gradient_cache`): the large batch's loss in a small one's memory, for twice the forward passes.
            Batch norm sees micro-batches. The trainer's gradient clipping is not available then.
        compile: run encoder and projector through ``torch.compile``.
        seed: of the augmentations; ``pretrain`` takes it from ``seed_everything``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        views: list[nn.Module],
        *,
        projector: Callable[[int], nn.Module] = MLPHead,
        loss: nn.Module | None = None,
        preprocess: nn.Module | None = None,
        optimizer: OptimizerCallable | None = None,
        warmup_epochs: float = 5,
        schedule: ScheduleCallable | None = None,
        channels_last: bool = True,
        accumulate_negatives: int = 1,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _require_parts(encoder, views, projector)
        if accumulate_negatives < 1 or warmup_epochs < 0:
            raise ValueError(
                f"accumulate_negatives is {accumulate_negatives} and warmup_epochs {warmup_epochs}; give 1 "
                "micro-batch or more, and 0 epochs or more"
            )
        self.encoder = encoder
        self.projector = projector(encoder.num_features)  # type: ignore[arg-type]
        self.views = nn.ModuleList(views)
        self.loss = InfoNCE() if loss is None else loss
        self.preprocess = default_preprocess(encoder) if preprocess is None else preprocess
        _require_one_normalisation(views, self.preprocess)
        _warn_of_another_normalisation(encoder, self.preprocess)
        # not as the default above, whose weight decay would stay when the configuration names another class
        self.optimizer = optimizer or torch.optim.AdamW
        self.warmup_epochs, self.schedule, self.seed = warmup_epochs, schedule, seed
        self.accumulate_negatives = accumulate_negatives
        self.automatic_optimization = accumulate_negatives == 1
        if channels_last and all(tensor.ndim != 5 for tensor in encoder.state_dict().values()):
            self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            self.encoder.compile()
            self.projector.compile()

    def start_from(self, path: str) -> None:
        """Give the encoder the weights of a pretrained one, see `contrastive.features.load_encoder`."""
        start_from(self.encoder, path)

    def configure_model(self) -> None:
        """Shard the networks where the strategy shards (``ModelParallelStrategy``, FSDP2)."""
        if self._device_mesh is not None:
            shard(self, self._device_mesh["data_parallel"])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key what torch itself draws, as dropout does, by (seed, epoch, batch, process)."""
        if isinstance(batch, Batch) and self.global_rank == batch_idx == self.current_epoch == 0:
            plain = batch.input[0] if isinstance(batch.input, tuple) else batch.input
            if isinstance(plain, Tensor):
                _warn_of_another_range(self.augment(batch), self.preprocess(plain))
        key_draws(self, batch_idx)

    def augment(self, batch: Batch) -> list[Any]:
        """Draw two views of every sample, which follow from (seed, epoch, index, view) alone."""
        return [
            self.views[i % len(self.views)](input, random)
            for i, (input, random) in enumerate(self._inputs(batch))
        ]

    def _inputs(self, batch: Batch) -> list[tuple[Any, SampleRandom]]:
        """What each view is made of: samples and draws."""
        inputs = batch.input if isinstance(batch.input, tuple) else [batch.input] * 2
        key: Any = {"seed": self.seed, "epoch": self.current_epoch}
        return [(input, SampleRandom(batch.index, view=i, **key)) for i, input in enumerate(inputs)]

    def encode(self, views: list[Any]) -> Tensor:
        """Features of all views, ``(2N, num_features)``, in one pass unless images differ in size."""
        if len(views) == 1:
            return self.encoder(views[0])
        if isinstance(views[0], Tensor) and views[0].shape != views[1].shape:
            return torch.cat([self.encoder(view) for view in views])
        return self.encoder(concatenate(views))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the loss, and the features and projections of the views for the callbacks."""
        if not isinstance(batch, Batch):
            raise TypeError(
                f"the data gives a {type(batch).__name__}, expected contrastive.data.Batch: let the data set "
                "give Batch(input, label, index) of each sample, label -1 if not known, index its place"
            )
        outputs = {"loss": self._cached_step(batch)} if self.accumulate_negatives > 1 else self.step(batch)
        options: Any = {"batch_size": len(batch.index), "sync_dist": True}  # the mean over processes
        self.log("loss", outputs["loss"], prog_bar=True, **options)
        self.log_dict(dict(getattr(self.loss, "metrics", {})), **options)
        return outputs

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """The loss ``()`` of a batch, its features ``h`` and projections ``z``."""
        h, z = self.project(batch)
        return {"loss": self.loss(*z.chunk(2)), "h": h.detach(), "z": z.detach()}

    def project(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features ``(2N, num_features)`` and projections ``(2N, D)`` of two views, the first view first."""
        views = [self._augment_at_once(batch)] if self._at_once(batch) else self.augment(batch)
        h = self.encode(views)
        if h.ndim != 2 or h.shape[1] != self.encoder.num_features:
            raise ValueError(
                f"{type(self.encoder).__name__} gives features {tuple(h.shape)}, but its num_features is "
                f"{self.encoder.num_features}; it gives a row of num_features a sample"
            )
        if len(h) != 2 * len(batch.index):  # a row a node, whose pairs are told by their places
            _require_all_nodes(views, [input for input, _ in self._inputs(batch)])
        return h, self.projector(h)

    def _at_once(self, batch: Batch) -> bool:
        """Whether one augmentation makes both views of many graphs, which cost as much as its calls do.

        Images cost what their pixels do, and room for twice as many. A graph alone has two views that share
        what is known of its features. A method with an ``augment`` or ``encode`` of its own is asked for its
        views.
        """
        own = any(getattr(type(self), n) is not getattr(ContrastiveModule, n) for n in ("augment", "encode"))
        sample = batch.input[0] if isinstance(batch.input, tuple) else batch.input
        return len(self.views) == 1 and len(batch.index) > 1 and not isinstance(sample, Tensor) and not own

    def _augment_at_once(self, batch: Batch) -> Any:
        """The views of `augment`, by one call, as one input with the first view first."""
        inputs, draws = zip(*self._inputs(batch))
        return self.views[0](concatenate(inputs), SampleRandom.concatenate(draws))

    def _cached_step(self, batch: Batch) -> Tensor:
        """Take an optimizer step whose negatives come from all micro-batches of the batch."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = cached_backward(
            encode=lambda part: self.project(part)[1].chunk(2),
            micro_batches=split_batch(batch, self.accumulate_negatives),
            loss=self.loss,
            backward=self.manual_backward,
            no_sync=getattr(self.trainer.strategy, "block_backward_sync", nullcontext),
        )
        optimizer.step()
        self.lr_schedulers().step()  # type: ignore[union-attr, call-arg]
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep how inputs are normalised, which no weights say; of a run its configuration is there."""
        if spec := _spec(self.preprocess):
            checkpoint.setdefault("config", {"model": {"preprocess": spec}})

    def configure_optimizers(self) -> Any:
        """Build the optimizer and a schedule that moves every step."""
        optimizer = built("model.optimizer", self.optimizer, decay_groups(self))
        return scheduled(optimizer, self.trainer, self.warmup_epochs, self.schedule)


def _spec(preprocess: nn.Module) -> dict[str, Any] | None:
    """Preprocessing as a configuration has it; None of what is the user's own."""
    if type(preprocess) is Normalize:
        values = {name: getattr(preprocess, name).tolist() for name in ("mean", "std")}
        return {"class_path": "augmentations.colour.Normalize", "init_args": values}
    return {"class_path": "torch.nn.Identity"} if type(preprocess) is nn.Identity else None


def _require_parts(encoder: Any, views: Any, projector: Any) -> None:
    """Raise ValueError for an encoder of unknown width, and for views and projectors of another form."""
    if not hasattr(encoder, "num_features"):
        raise ValueError(
            f"{type(encoder).__name__} has no num_features, the width of the features that an encoder gives; "
            "set it, as encoder.num_features = 512"
        )
    if not isinstance(views, list | tuple | nn.ModuleList):
        raise ValueError(f"views is a {type(views).__name__}; give a list of one augmentation, or of two")
    if len(views) not in (1, 2):
        raise ValueError(f"views has {len(views)} augmentations; give one for both views, or two")
    if isinstance(projector, nn.Module):
        raise ValueError(
            f"projector is a {type(projector).__name__}; give what makes one of num_features, as "
            "lambda num_features: torch.nn.Linear(num_features, 128)"
        )


def key_draws(module: LightningModule, batch_idx: int) -> None:
    """Seed torch's generators by (``module.seed``, epoch, batch, process), for a resume to draw the same."""
    seed: Any = module.seed
    torch.manual_seed(seed_of(seed, module.current_epoch, batch_idx, module.global_rank))


def _require_one_normalisation(views: list[nn.Module], preprocess: nn.Module) -> None:
    """Raise ValueError where views normalise otherwise than what is not augmented is normalised.

    What is the user's own and has no ``Normalize`` is passed over, for it may normalise by itself.
    """
    plain = _normalisation(preprocess)
    others = dict.fromkeys(said for view in views if (said := _normalisation(view)) not in (None, plain))
    if plain and others:
        raise ValueError(
            f"the views normalise by {' and '.join(map(str, others))}, but what is not augmented, as in a "
            f"probe, by {plain}: give the views and model.preprocess, which is an "
            "augmentations.colour.Normalize, the same mean and std"
        )


def _warn_of_another_normalisation(encoder: nn.Module, preprocess: nn.Module) -> None:
    """Warn where an encoder's published weights were trained on images that were normalised otherwise."""
    trained_on: Any = getattr(encoder, "trained_on", None)
    if trained_on is None:
        return
    mean, std = trained_on
    own, theirs = _normalisation(preprocess), _normalisation(Normalize(mean=mean, std=std))
    if own not in (None, theirs):
        warnings.warn(
            f"the encoder's published weights were trained on images normalised by {theirs}, here they are "
            f"by {own}: give the views and model.preprocess theirs",
            stacklevel=3,
        )


def _normalisation(part: nn.Module) -> str | None:
    """Mean and std of the ``Normalize`` in a recipe, in words; None where they are not known."""
    if found := [module for module in part.modules() if isinstance(module, Normalize)]:
        mean, std = ([round(x, 4) for x in values.tolist()] for values in (found[-1].mean, found[-1].std))
        return f"mean {mean} and std {std}"
    return "nothing" if {type(module).__module__ for module in part.modules()} <= _OF_IMAGES else None


def _warn_of_another_range(views: list[Tensor], plain: Tensor) -> None:
    """Warn where the pixels of views spread far more, or less, than those of what is not augmented.

    Raises TypeError where views of images are none.
    """
    if wrong := {type(view).__name__ for view in views if not isinstance(view, Tensor)}:
        raise TypeError(
            f"a view of images gives a {', '.join(wrong)}, expected a tensor; it is called as view(images, "
            "random): put a transform that takes images alone into a module that takes both"
        )
    spread, expected = torch.cat([view.flatten() for view in views]).float().std(), plain.float().std()
    if expected > 0 and not 1 / 3 < spread / expected < 3:
        warnings.warn(
            f"the pixels of the views have the standard deviation {spread:.3g}, those of what is not "
            f"augmented, as in a probe, {expected:.3g} (model.preprocess): the encoder would meet another "
            "range than it is trained on. A view takes uint8 and returns what preprocess does",
            stacklevel=3,
        )


def _require_all_nodes(views: list[Any], inputs: list[Any]) -> None:
    """Raise ValueError where views of graphs have fewer nodes than the graphs, and so other pairs."""
    left, given = (sum(getattr(graph, "num_nodes", 0) for graph in graphs) for graphs in (views, inputs))
    if left < given:
        raise ValueError(
            f"the views have {left} nodes where the graphs have {given}, so that the n-th nodes of two views "
            "are no pair: set remove to false in views that take nodes out"
        )
