"""Whether an encoder takes graphs with the features that the data's have, known before training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder, takes_graphs
from encoders.feature_encoder import beyond
from encoders.graph_batch import GraphBatch
from encoders.molecules import ATOM_FEATURES

_DEGREE = list(ATOM_FEATURES).index("degree")
_OURS = ("augmentations.", "encoders.", "torch.")


def _categories(x: Tensor) -> str:
    """Categories of each column as the command line takes them, one more than the largest."""
    return f"'{[int(largest) + 1 for largest in x.amax(0)] if len(x) else []}'"


def refuse_other_features(model: nn.Module, x: Any, source: str, advice: str | None = None) -> None:
    """Check that the encoder of a model takes graphs, and nodes with these features.

    An encoder that does not say which features it takes, and views or preprocessing of the user's own, are
    passed over.

    Args:
        model: what is pretrained.
        x: of the nodes, ``(N, F)``, dense or sparse.
        source: of the graphs, for the message.
        advice: what the message says to do; None says what to set before training.

    Raises:
        ContrastiveError: it takes others, or does not say that it takes graphs; the message says what to set.
    """
    encoder = getattr(model, "encoder", None)
    if encoder is not None and not takes_graphs(encoder):  # and a probe of the run would read images
        raise ContrastiveError(
            f"{source} holds graphs, but {type(encoder).__name__} does not say that it takes them: set "
            "takes_graphs = True in its class, or give an encoder of graphs"
        )
    expected = getattr(encoder, "node_features", None)
    parts = [part for name in ("views", "preprocess") if (part := getattr(model, name, None)) is not None]
    makes = [type(inner).__module__ for part in parts for inner in part.modules()]
    if expected is None or not all(name.startswith(_OURS) for name in makes):
        return
    number, of_categories = x.shape[1], not x.is_floating_point()
    wanted = len(expected) if isinstance(expected, list) else expected
    fits = number == wanted and of_categories == isinstance(expected, list)
    found = beyond(x, expected) if fits and of_categories else None
    if fits and not found:
        return
    atoms = number == len(ATOM_FEATURES) and not found
    setting = number if not of_categories else "atoms" if atoms else _categories(x)
    advice = advice or f"pass --model.encoder.init_args.node_features {setting}"
    if found:
        column, category, limit = found
        raise ContrastiveError(
            f"column {column} of the nodes of {source} has the category {category}, but the encoder takes "
            f"{limit}, numbered from 0: {advice if category > 0 else 'number them from 0'}"
        )
    kinds = ("number(s)", "categories")
    raise ContrastiveError(
        f"the nodes of {source} have {number} {kinds[of_categories]} each, but the encoder takes {wanted} "
        f"{kinds[isinstance(expected, list)]}: {advice}"
    )


def refuse_other_numbers(graphs: GraphBatch, source: str) -> None:
    """Check that graphs for an encoder of SMILES number the properties of atoms as our ``from_smiles`` does.

    PyG's and OGB's have as many properties with other numbers, which an encoder would take for other atoms.
    Their degree counts hydrogens too, so that it is not the graph's.

    Raises:
        ContrastiveError: they number them otherwise.
    """
    if graphs.x.is_floating_point() or graphs.x.shape[1] != len(ATOM_FEATURES):
        return
    largest = ATOM_FEATURES["degree"] - 1
    neighbours = torch.bincount(graphs.dst, minlength=graphs.num_nodes) + 1
    degree = graphs.x[:, _DEGREE]
    if ((degree != neighbours.clamp(max=largest)) & (degree != 0)).any():  # 0 is masked
        raise ContrastiveError(
            f"the atoms of {source} have other degrees than there are bonds, as those of PyG's and OGB's "
            "molecules, which number other properties otherwise too: give SMILES, as in training"
        )


def refuse_smiles(encoder: FrozenEncoder) -> None:
    """Refuse SMILES for an encoder of tables of OGB, whose properties have other numbers than from_smiles'.

    Raises:
        ContrastiveError: it is one.
    """
    source = str(encoder.data.get("source"))
    if source.startswith("ogb:"):
        raise ContrastiveError(
            f"the encoder was trained on {source}, which numbers the properties of atoms otherwise than "
            "SMILES are read here; pretrain on SMILES to encode them"
        )
