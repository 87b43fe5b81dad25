"""Which items are fitted on, chosen by and tested on: splits, folds, and draws of few labels from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from contrastive.errors import ContrastiveError
from contrastive.evaluation.protocol import Protocol

NUM_FOLDS = 10  # of a graph set without a published split
NUM_NODE_SPLITS = 20
NUM_DRAWS = 10  # of some of the labels


class Draw(NamedTuple):
    """Indices, int64, of the items that are fitted on, chosen by and tested on; no item is in two of them."""

    fit: np.ndarray
    val: np.ndarray
    test: np.ndarray


def folds(y: np.ndarray, protocol: Protocol, deal: int) -> Iterator[Draw]:
    """Stratified folds; of each one's training part some is set aside to choose by."""
    dealt = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=protocol.seed + deal)
    for train, test in dealt.split(y, y):
        yield Draw(*set_aside(train, y, protocol.val_fraction, protocol.seed), test)


def random_splits(num_nodes: int, *, num_splits: int, seed: int = 0) -> Iterator[Draw]:
    """Random splits of the nodes: 10 % for training, 10 % for validation and 80 % for testing."""
    tenth = round(0.1 * num_nodes)
    for i in range(num_splits):
        order = np.random.default_rng((seed, i)).permutation(num_nodes)
        yield Draw(order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :])


def draws(splits: list[Draw], y: np.ndarray, protocol: Protocol) -> list[Draw]:
    """The draws of an evaluation: the splits, or draws of some labels from the splits in turn.

    Args:
        splits: of the items; those to test on stay as they are.
        y: ``(N,)`` int64 classes or ``(N, T)`` float targets.
        protocol: says how many labels, how often.

    Raises:
        ContrastiveError: too few labels, or labels of a class where there are no classes.
    """
    if not protocol.drawn:
        return splits
    drawn = []
    for i in range(max(protocol.repeats or NUM_DRAWS, len(splits))):
        split = splits[i % len(splits)]
        fit, val = labelled_subset(split.fit, split.val, y, protocol, draw=i)
        drawn.append(Draw(fit, val, split.test))
    return drawn


def labelled_draws(y: np.ndarray, protocol: Protocol) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for every draw from a training split, the indices to fit on and those to select by.

    Args:
        y: ``(N,)`` int64 classes.
        protocol: says how many labels, how often, and what share is set aside to select by.

    Raises:
        ContrastiveError: a class has too few labels for the draw.
    """
    pool, val = set_aside(np.arange(len(y)), y, protocol.val_fraction, protocol.seed)
    for draw in range(protocol.repeats or 1):
        yield labelled_subset(pool, val, y, protocol, draw=draw) if protocol.drawn else (pool, val)


def set_aside(pool: np.ndarray, y: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split items in those to fit on and those to select by, stratified by class where there are classes.

    Raises:
        ContrastiveError: so few items that a part would lack a class.
    """
    try:
        fit, val = train_test_split(
            pool, test_size=share, stratify=strata(y)[pool] if has_strata(y) else None, random_state=seed
        )
    except ValueError as error:
        raise ContrastiveError(
            f"{share:.0%} of {len(pool)} labelled items cannot be set aside for validation ({error}); "
            "give more labelled items"
        ) from error
    return fit, val


def has_strata(y: np.ndarray) -> bool:
    """Whether the items have one class each: integers, or one target of 0 and 1 without blanks."""
    return y.ndim == 1 or (y.shape[1] == 1 and bool(np.isin(y, (0, 1)).all()))


def strata(y: np.ndarray) -> np.ndarray:
    """``(N,)`` int64: the class of each item."""
    return y.astype(np.int64).reshape(-1)


def labelled_subset(
    pool: np.ndarray, val: np.ndarray, y: np.ndarray, protocol: Protocol, *, draw: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the labelled items to fit on from ``pool``, and no more than as many to select by from ``val``.

    Raises:
        ContrastiveError: a class has too few labels for the draw.
    """
    rng = np.random.default_rng((protocol.seed, draw))
    if protocol.labels_per_class is not None:
        if not has_strata(y):
            raise ContrastiveError(
                "labels per class need one class an item; these have several targets, blanks or other "
                "numbers: give a fraction instead"
            )
        k, classes = protocol.labels_per_class, strata(y)
        return draw_per_class(pool, classes, k, rng), draw_per_class(val, classes, k, rng, at_most=True)
    assert protocol.fraction is not None
    state = int(rng.integers(2**31))
    try:
        fit, _ = train_test_split(
            pool,
            train_size=protocol.fraction,
            stratify=strata(y)[pool] if has_strata(y) else None,
            random_state=state,
        )
    except ValueError as error:
        raise ContrastiveError(
            f"a fraction of {protocol.fraction:g} of {len(pool)} items cannot be drawn: {error}"
        ) from error
    return fit, rng.permutation(val)[: len(fit)]


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
    return np.concatenate(drawn) if drawn else pool[:0]
