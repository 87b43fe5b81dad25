"""Leak guard: how many labelled items has pretraining seen, and how many test items does training hold?"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from contrastive.building import build_data
from contrastive.data.graphs import GraphDataset
from contrastive.data.image_dataset import ImageDataset
from contrastive.data.molecules import MoleculeDataset
from contrastive.data.node_files import NodeDataset
from contrastive.data.nodes import NodeData
from contrastive.data.rdkit_cache import import_rdkit
from contrastive.errors import ContrastiveError
from contrastive.evaluation.tasks import Task
from contrastive.features import FrozenEncoder
from contrastive.report import cache_home, track, write_whole
from encoders.graph_batch import GraphBatch
from encoders.molecules import read_molecule, unmapped

log = logging.getLogger("contrastive")


def report_leaks(encoders: dict[str, FrozenEncoder], task: Task, source: str) -> dict[str, Any]:
    """Count the test items that are equal to a pretraining or a training item, and log what there is to say.

    Images are equal that have the same pixels at the size they are encoded at; molecules that have the same
    canonical SMILES; graphs that have the same edges and features in the same order.

    Args:
        encoders: by their runs; each knows what it was pretrained on.
        task: has the test items.
        source: of the task.

    Returns:
        ``num_test``, ``in_training`` (test items equal to one that is fitted on or chosen by, in the first
        draw), and of pretraining ``num_pretraining`` and ``in_pretraining``, or ``unchecked`` with the
        reason; where there are several runs these stand in ``runs``, by run.
    """
    if isinstance(task.dataset, NodeDataset):
        return {"unchecked": "pretraining sees every node of the graph, without labels, by the protocol"}
    keys = keys_of(task.dataset)
    test = [keys[i] for i in {i for draw in task.draws for i in draw.test}]
    draw = task.draws[0]
    fitted = {keys[i] for i in (*draw.fit, *draw.val)}
    found: dict[str, Any] = {
        "num_test": len(test),
        "in_training": sum(keys[i] in fitted for i in draw.test),
    }
    if found["in_training"]:
        log.warning("%d of %d test items are also training items", found["in_training"], len(draw.test))
    known: dict[str, set[str]] = {}
    seen = {run: _seen_by(encoder, run, test, task.unit, source, known) for run, encoder in encoders.items()}
    return found | (next(iter(seen.values())) if len(seen) == 1 else {"runs": seen})


def _seen_by(
    encoder: FrozenEncoder, run: str, test: list[str], unit: str, source: str, known: dict[str, set[str]]
) -> dict[str, Any]:
    """What of `report_leaks` is one run's; ``known`` keeps the keys of what several were pretrained on."""
    if (encoder.config or {}).get("labels") == source:
        log.warning("the encoder was trained on labels of %s: its test items may be among those", source)
    try:
        read = _read_as(encoder)
        if read not in known:
            known[read] = set(keys_of(pretraining_items(encoder)))
    except ContrastiveError as error:
        log.warning("leaks from pretraining were not checked: %s", error)
        return {"unchecked": str(error)}
    pretraining = known[read]
    number = sum(key in pretraining for key in test)
    print(
        f"leaks: {number} of {len(test)} test {unit} ({number / max(len(test), 1):.1%}) are among the "
        f"{len(pretraining)} different ones that {run} was pretrained on, without labels"
    )
    return {"num_pretraining": len(pretraining), "in_pretraining": number}


def _read_as(encoder: FrozenEncoder) -> str:
    """What the items that an encoder was pretrained on follow from: its data less how they are loaded.

    The run's seed is among it where a part is drawn, or data that are not ours may draw one.
    """
    config = encoder.config or {}
    kind = (config.get("data") or {}).get("class_path", "")
    options = {
        key: value
        for key, value in encoder.data.items()
        if key not in ("batch_size", "num_workers", "download")
    }
    drawn = options.get("train_subset") or not kind.startswith("contrastive.")
    return json.dumps([kind, options, config.get("seed_everything") if drawn else None], default=str)


def pretraining_items(encoder: FrozenEncoder) -> Any:
    """The data set that an encoder was pretrained on, validation included; nothing is downloaded for it.

    Raises:
        ContrastiveError: it is not recorded, not there any more, or a stream.
    """
    config = encoder.config or {}
    if not config.get("data"):
        raise ContrastiveError("the encoder does not record what it was trained on")
    arguments = {key: key != "download" and value for key, value in encoder.data.items()}
    module = build_data({**config, "data": {**config["data"], "init_args": arguments}})
    if isinstance(module, NodeData):
        module.setup()
        return module.nodes
    dataset = module.read("train")
    if not hasattr(dataset, "__len__"):
        raise ContrastiveError(f"{encoder.data.get('source')} is a stream")
    return dataset


def keys_of(dataset: Any) -> list[str]:
    """A key for each item, the same for equal items.

    Raises:
        ContrastiveError: items of another kind than images, molecules and graphs.
    """
    if isinstance(dataset, MoleculeDataset):
        return _canonical_all(dataset.smiles)
    if isinstance(dataset, GraphDataset):
        return [_graph_key(dataset.graphs[i]) for i in range(len(dataset))]
    if isinstance(dataset, ImageDataset):
        places = np.array_split(np.arange(len(dataset)), -(-len(dataset) // 1024))
        return [
            hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest()
            for part in places
            for image in dataset.__getitems__(part.tolist()).input
        ]
    raise ContrastiveError(f"items of {type(dataset).__name__} have no key")


def _canonical_all(smiles: Sequence[str]) -> list[str]:
    """Canonical SMILES, kept in the cache by a hash of what they are of: 250,000 take over a minute."""
    version = import_rdkit().rdBase.rdkitVersion
    content = hashlib.blake2b("\n".join([version, *map(unmapped, smiles)]).encode(), digest_size=16)
    file = cache_home() / "canonical" / f"{content.hexdigest()}.txt"
    try:
        known = file.read_text().split("\n")
        if len(known) == len(smiles):
            return known
    except (OSError, UnicodeDecodeError):  # not there, or damaged
        pass
    names = [canonical(name) for name in track(smiles, "Canonical SMILES")]
    try:
        write_whole(file, lambda part: part.write_text("\n".join(names)), advice="they are not kept")
    except ContrastiveError as error:
        log.warning("%s", error)
    return names


def canonical(smiles: str) -> str:
    """RDKit's canonical SMILES, without numbers of atoms; what it cannot read stays as it is."""
    chem = import_rdkit()
    molecule = read_molecule(chem, smiles)
    return smiles if molecule is None else chem.MolToSmiles(molecule)


def _graph_key(graph: GraphBatch) -> str:
    content = hashlib.blake2b(digest_size=16)
    for tensor in (graph.src, graph.dst, graph.x, graph.edge_attr):
        if tensor is not None:
            content.update(str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return content.hexdigest()
