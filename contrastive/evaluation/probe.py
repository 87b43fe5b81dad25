"""``contrastive probe``: a linear classifier on frozen features, selected on validation, reported on test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive.data.image_dataset import ImageDataset
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError
from contrastive.evaluation.statistics import mean_interval, proportion_interval
from contrastive.features import HUB, LAST, FrozenEncoder, accelerator, build_encoder, encode, load_encoder
from contrastive.report import percent, print_table, track, write_json

REGULARISATIONS = tuple(10.0**k for k in range(-4, 3))
_SKLEARN_LIMIT = 20_000_000  # features × samples up to which scikit-learn's solver is the faster one


@dataclass(frozen=True)
class Features:
    """Features ``(N, D)`` float32 with the classes of the samples, ``(N,)`` int64, as NumPy arrays."""

    h: np.ndarray
    y: np.ndarray

    def take(self, index: np.ndarray) -> Features:
        """The samples at ``index``."""
        return Features(self.h[index], self.y[index])


@dataclass(frozen=True)
class Protocol:
    """How a linear probe was run; written beside its number.

    Attributes:
        data: the labelled data.
        labels_per_class: training labels of each class in a draw; None for all or for ``fraction``.
        fraction: share of the training labels in a draw, stratified.
        repeats: draws of the labelled set.
        val_fraction: share of the training split that is set aside to choose the regularisation from.
        seed: of the split and of the draws.
        selection: how the regularisation was chosen.
        standardised: what the mean and deviation of a feature were taken from.
    """

    data: str
    labels_per_class: int | None = None
    fraction: float | None = None
    repeats: int = 1
    val_fraction: float = 0.1
    seed: int = 0
    selection: str = (
        "C with the best validation accuracy, smallest first; no more validation than training labels"
    )
    standardised: str = "all training features, unlabelled"


def probe(
    run: str,
    *,
    data: str | None = None,
    labels_per_class: int | None = None,
    fraction: float | None = None,
    repeats: int | None = None,
    untrained: bool = True,
    seed: int = 0,
    batch_size: int = 512,
    download: bool = False,
    skip_corrupt: bool = False,
    output: str | None = None,
) -> None:
    """Train a classifier on the frozen features of a run and report its test accuracy.

    Images: logistic regression; the regularisation is chosen on a validation split of the training data and
    the test split is read once. Graphs: a support vector machine in nested 10-fold cross-validation. Nodes:
    logistic regression on the public split, or on random ones.

    Args:
        run: a run folder, a checkpoint or an export.
        data: a labelled source of the same kind (default: what the run trained on).
        labels_per_class: train on so many labels a class, drawn at random.
        fraction: train on this share of the labels, drawn at random.
        repeats: draws of the labelled set (default: 10 where labels are drawn, else 1), random splits of
            nodes (default: 20), or deals of the graphs into folds (default: 1).
        untrained: also evaluate the same encoder before training.
        seed: of the validation split and the draws.
        batch_size: images encoded at a time.
        download: whether torchvision may download the data.
        skip_corrupt: leave out files that do not decode, and count them, instead of stopping.
        output: result file (default: results/probe.json in the run folder).
    """
    if labels_per_class is not None and fraction is not None:
        raise ContrastiveError("give --labels-per-class or --fraction, not both")
    encoder = load_encoder(run)
    file = Path(output) if output else results_folder(Path(run)) / "probe.json"
    if getattr(encoder.encoder, "takes_graphs", False):
        from contrastive.evaluation.graph_probe import probe_graphs

        probe_graphs(encoder, run, data=data, untrained=untrained, repeats=repeats, seed=seed, file=file)
        return
    drawn = labels_per_class is not None or fraction is not None
    train, test, source = labelled_splits(encoder, data, download=download, skip_corrupt=skip_corrupt)
    protocol = Protocol(
        source, labels_per_class, fraction, repeats=repeats or (10 if drawn else 1), seed=seed
    )
    encoders = {"pretrained": encoder}
    if untrained and encoder.config:
        torch.manual_seed(seed)
        encoders["untrained"] = FrozenEncoder(*build_encoder(encoder.config))
    rows = []
    for name, model in encoders.items():
        h, held_out = (features_of(model, split, batch_size, f"Encoding ({name})") for split in (train, test))
        result = linear_probe(h, held_out, protocol, progress=f"Probing ({name})")
        rows.append({"representation": name, **result})
    _report(rows, run, protocol, len(test), file)


def labelled_splits(
    encoder: FrozenEncoder, data: str | None, **options: bool
) -> tuple[ImageDataset, ImageDataset, str]:
    """Read the labelled training and test split, at the size and with the channels the run was trained on.

    Raises:
        ContrastiveError: no data given or recorded, no labels, or fewer than two classes.
    """
    source = data or encoder.data.get("source")
    if source is None:
        raise ContrastiveError("this encoder does not record its data; give --data")
    shape = {key: encoder.data.get(key) for key in ("image_size", "channels")}
    train, test = (read_images(source, split, **shape, **options).labelled() for split in ("train", "test"))  # type: ignore[arg-type]
    if train.labels is None or test.labels is None:
        raise ContrastiveError(
            f"{source} has no labels: a probe needs a folder a class, or a column or array of labels"
        )
    if len(train.labels.unique()) < 2:
        raise ContrastiveError(f"{source} has one class only ({train.classes[0]}); a probe needs two or more")
    if train.classes != test.classes:
        raise ContrastiveError(
            f"the classes of {source} differ: {train.classes} in train, {test.classes} in test"
        )
    return train, test, source


def features_of(encoder: FrozenEncoder, dataset: Any, batch_size: int, progress: str | None) -> Features:
    """Encode a labelled data set, of images or of graphs."""
    h = encode(encoder, dataset, batch_size=batch_size, progress=progress)
    return Features(h.numpy(), dataset.labels.numpy())


def linear_probe(
    train: Features, test: Features, protocol: Protocol, *, progress: str | None = None
) -> dict[str, Any]:
    """Fit a logistic regression on each draw of the training labels and test it.

    Args:
        train: the training split's features, before validation is set aside.
        test: the test split's.
        protocol: what is drawn, and how often.
        progress: what the progress bar says; None shows no bar.

    Returns:
        ``accuracy_mean`` and ``accuracy_ci95`` (of the mean over draws; with one draw, Wilson's over test
        samples), ``num_draws``, and ``regularisations``: the C that each draw chose.
    """
    scaler = StandardScaler().fit(train.h)
    train, test = (replace(part, h=scaler.transform(part.h)) for part in (train, test))
    accuracies, chosen = [], []
    draws = list(labelled_draws(train.y, protocol))
    for fit, val in track(draws, progress):
        model, c = select_classifier(train.take(fit), train.take(val))
        accuracies.append(float((model(test.h) == test.y).mean()))
        chosen.append(c)
    mean, interval = mean_interval(accuracies)
    if len(accuracies) == 1:
        interval = proportion_interval(round(mean * len(test.y)), len(test.y))
    return {
        "accuracy_mean": mean,
        "accuracy_ci95": list(interval),
        "num_draws": len(accuracies),
        "regularisations": chosen,
    }


def labelled_draws(y: np.ndarray, protocol: Protocol) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for every draw, the indices to fit on and those to select by; they never overlap.

    Raises:
        ContrastiveError: a class has too few labels for the draw.
    """
    pool, val = train_test_split(
        np.arange(len(y)), test_size=protocol.val_fraction, stratify=y, random_state=protocol.seed
    )
    for draw in range(protocol.repeats):
        rng = np.random.default_rng((protocol.seed, draw))
        if protocol.labels_per_class is not None:
            k = protocol.labels_per_class
            yield draw_per_class(pool, y, k, rng), draw_per_class(val, y, k, rng, at_most=True)
        elif protocol.fraction is not None:
            fit, _ = train_test_split(
                pool, train_size=protocol.fraction, stratify=y[pool], random_state=int(rng.integers(2**31))
            )
            yield fit, rng.permutation(val)[: len(fit)]
        else:
            yield pool, val


def draw_per_class(
    pool: np.ndarray, y: np.ndarray, k: int, rng: np.random.Generator, *, at_most: bool = False
) -> np.ndarray:
    """Draw ``k`` items of each class without replacement, or with ``at_most`` as many as there are."""
    drawn = []
    for label in np.unique(y[pool]):
        items = pool[y[pool] == label]
        if len(items) < k and not at_most:
            raise ContrastiveError(
                f"class {label} has {len(items)} training labels, fewer than the {k} asked for"
            )
        drawn.append(rng.permutation(items)[:k])
    return np.concatenate(drawn)


def select_classifier(fit: Features, val: Features) -> tuple[Any, float]:
    """Fit a classifier for each C; return the best on validation, a function ``h -> classes``, and its C."""
    best, best_accuracy, best_c = None, -1.0, 0.0
    for c, classify in fit_path(fit, REGULARISATIONS):
        accuracy = float((classify(val.h) == val.y).mean())
        if accuracy > best_accuracy:
            best, best_accuracy, best_c = classify, accuracy, c
    return best, best_c


def fit_path(fit: Features, regularisations: tuple[float, ...]) -> Iterator[tuple[float, Any]]:
    """Yield a fitted classifier for each C, the next one starting from the last.

    The objective is scikit-learn's: the sum of the cross-entropies times C, plus ½‖W‖². Large sets are fitted
    on the accelerator, or in float32 on the CPU, by the same method (L-BFGS).
    """
    if fit.h.size <= _SKLEARN_LIMIT:
        model = LogisticRegression(max_iter=500, tol=1e-3, warm_start=True)
        for c in regularisations:
            yield c, model.set_params(C=c).fit(fit.h, fit.y).predict
        return
    layer = None
    for c in regularisations:
        layer = fit_softmax_regression(fit, c, start=layer)
        yield c, lambda h, layer=layer: _predict(layer, h)


def fit_softmax_regression(fit: Features, c: float, *, start: nn.Linear | None = None) -> nn.Linear:
    """Minimise mean cross-entropy + ‖W‖² / (2 C N) with L-BFGS, on the accelerator where there is one.

    Args:
        fit: standardised features and classes ``0 … K-1``.
        c: scikit-learn's C.
        start: a layer to start from.
    """
    device = accelerator()
    h, y = torch.from_numpy(fit.h).float().to(device), torch.from_numpy(fit.y).to(device)
    layer = nn.Linear(h.shape[1], int(y.max()) + 1, device=device)
    if start is None:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    else:
        layer.load_state_dict(start.state_dict())
    optimizer = torch.optim.LBFGS(
        layer.parameters(),
        max_iter=200,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(h), y) + layer.weight.square().sum() / (2 * c * len(h))
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return layer


@torch.inference_mode()
def _predict(layer: nn.Linear, h: np.ndarray) -> np.ndarray:
    return layer(torch.from_numpy(h).float().to(layer.weight.device)).argmax(1).cpu().numpy()


def _report(rows: list[dict], run: str, protocol: Protocol, num_test: int, file: Path) -> None:
    print_table(
        f"Linear probe on {protocol.data}, {num_test} test images",
        ("representation", "test accuracy, % [95 %]", "draws"),
        [(row["representation"], percent(row), str(row["num_draws"])) for row in rows],
    )
    versions = {"torch": torch.__version__, "scikit-learn": sklearn.__version__}
    result = {
        "run": run,
        "protocol": asdict(protocol),
        "num_test": num_test,
        "rows": rows,
        "versions": versions,
    }
    write_json(file, result)
    print(f"result: {file}")


def results_folder(run: Path) -> Path:
    """``results`` of a run folder, also for a checkpoint in it; beside a checkpoint that lies elsewhere."""
    if run.parts[:1] == (HUB.strip("/"),):
        raise ContrastiveError("an encoder of the Hub has no folder to write results to; give --output")
    if run.is_file():
        run = run.parent.parent if run.parent.name == LAST.parent.name else run.parent
    return run / "results"
