"""How encoders are judged: the settings of an evaluation, written beside its numbers, enough to repeat it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from contrastive.errors import ContrastiveError

Method = Literal["linear", "knn", "svm", "finetune", "scratch"]
TRAINED: tuple[Method, ...] = ("scratch", "finetune")  # the network itself, not a classifier on its features
Objective = Literal["softmax", "one_vs_rest"]
SplitRule = Literal["auto", "scaffold", "random", "stratified"]


@dataclass(frozen=True)
class Finetuning:
    """How a network is trained on labelled items.

    Attributes:
        num_epochs: at most; the epoch that is best on validation is kept, of equals the first.
        min_steps: epochs of few items are repeated until there are so many steps in all.
        patience: epochs without a better validation number after which training ends.
        batch_size: items a step.
        lr: AdamW's peak learning rate, of the last layer.
        encoder_lr: of the encoder, before ``layer_decay``; None takes ``lr``.
        layer_decay: what the encoder's rate is multiplied by in its last block, and again in each before it.
        weight_decay: of weights, not of biases and norms.
        dropout: before the last layer, and in an encoder's own dropout layer where it has one.
        feature_norm: batch norm without weights before the last layer, which then learns at one rate whatever
            the features' scales, as masked autoencoders are probed (He et al. 2022, arXiv 2111.06377). None:
            for graphs, nodes and molecules, whose sums grow with their size, but not for images.
        freeze_batch_norm: keep the statistics and weights of the encoder's batch norms as they are.
        schedule: of the learning rate: warm-up and cosine, or constant.
        precision: of training steps, named as ``--trainer.precision`` does; predictions are made in float32.
        last_epoch: also report the last epoch's weights, which nothing has chosen, as published tables do (Hu
            et al. 2020, arXiv 1905.12265).
    """

    num_epochs: int = 30
    min_steps: int = 100
    patience: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    encoder_lr: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 1e-2
    dropout: float = 0.0
    feature_norm: bool | None = None
    freeze_batch_norm: bool = False
    schedule: Literal["cosine", "constant"] = "cosine"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    last_epoch: bool = False


@dataclass(frozen=True)
class Protocol:
    """What an evaluation follows from, besides the encoder.

    Attributes:
        data: the labelled source.
        method: ``linear``, ``knn`` and ``svm`` on frozen features; ``finetune`` trains the encoder too,
            ``scratch`` an untrained one.
        targets: the columns of a table to predict.
        smiles_column: of a table of molecules.
        split: how molecules are split 80/10/10; ``auto`` is what is usual for the kind of data.
        labels_per_class: labelled items of each class that are fitted on; None for all or for ``fraction``.
        fraction: share of the training items that are fitted on.
        repeats: draws of the labelled items, splits, or deals into folds; None takes what is usual.
        val_fraction: share of the training split that is set aside to choose by, where no split is published.
        k: neighbours, of ``knn``.
        objective: of ``linear`` where items have one class each: the cross-entropy of the softmax, or each
            class against the rest, as liblinear fits them and the authors of GRACE and GCA judge nodes.
        seed: of splits, draws and training.
        finetuning: of ``finetune`` and ``scratch``.
        selection: what is chosen, and by what.

    Raises:
        ContrastiveError: a number of something that is below 1, or two numbers of labels.
    """

    data: str
    method: Method = "linear"
    targets: tuple[str, ...] = ()
    smiles_column: str | None = None
    split: SplitRule = "auto"
    labels_per_class: int | None = None
    fraction: float | None = None
    repeats: int | None = None
    val_fraction: float = 0.1
    k: int = 20
    objective: Objective = "softmax"
    seed: int = 0
    finetuning: Finetuning = field(default_factory=Finetuning)
    selection: str = (
        "by validation alone: the regularisation, of classes equals by their cross-entropy, or the epoch, of "
        "equals the first; of svm in 5 folds of all but the test items; where labels are drawn no more "
        "validation than training labels"
    )

    def __post_init__(self) -> None:
        training = self.finetuning
        numbers = {name: getattr(self, name) for name in ("labels_per_class", "repeats", "k")}
        numbers |= {f"finetuning.{name}": getattr(training, name) for name in ("num_epochs", "batch_size")}
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise ContrastiveError(f"--{name.replace('_', '-')} is {number}; give 1 or more")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ContrastiveError(f"--fraction is {self.fraction:g}; give a share between 0 and 1")
        if self.labels_per_class is not None and self.fraction is not None:
            raise ContrastiveError("give --labels-per-class or --fraction, not both")

    @property
    def drawn(self) -> bool:
        """Whether only some of the labels are used."""
        return self.labels_per_class is not None or self.fraction is not None

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Protocol:
        """The protocol that a result file holds.

        Raises:
            ContrastiveError: it has other fields, as one of another version.
        """
        try:
            content = {**content, "targets": tuple(content["targets"])}
            return cls(**{**content, "finetuning": Finetuning(**content["finetuning"])})
        except (KeyError, TypeError) as error:
            raise ContrastiveError(f"this is not a protocol of this version ({error}); probe anew") from error

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"targets": list(self.targets)}


def parse_targets(text: str | None) -> tuple[str, ...]:
    """Column names of a command line: ``A,B``, or a JSON list where a name has a comma.

    Raises:
        ContrastiveError: a list that is not one of names.
    """
    if not text:
        return ()
    if not text.startswith("["):
        return tuple(name.strip() for name in text.split(","))
    try:
        names = json.loads(text)
        if not all(isinstance(name, str) for name in names):
            raise ValueError("names are strings")
        return tuple(names)
    except ValueError as error:
        raise ContrastiveError(f'--targets is {text}; expected A,B or ["A", "B"] ({error})') from error
