"""The runs that an evaluation judges: opened, named in its table, and where its results go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contrastive.errors import ContrastiveError
from contrastive.evaluation.protocol import Method, Protocol
from contrastive.features import FrozenEncoder, in_channels, load_encoder, takes_graphs
from contrastive.items import GRAPH_OPTIONS, image_size_of
from contrastive.saved import HUB, run_folder

OTHER_ROWS = ("untrained", "raw", "scratch")  # of a table, which no run is called


def open_encoders(runs: Sequence[str] | None) -> dict[str, FrozenEncoder]:
    """The encoders of runs, by their names in a table.

    Raises:
        ContrastiveError: none is named, one twice, or one cannot be opened; or their items are read otherwise
            than the first one's, as at another size.
    """
    if not runs:
        raise ContrastiveError("name a run folder, a checkpoint or an export")
    for run in runs:
        if runs.count(run) > 1:
            raise ContrastiveError(f"{run} is named twice")
    encoders = {name: load_encoder(run) for name, run in zip(run_names(runs), runs)}
    first, *others = [_reading(encoder) for encoder in encoders.values()] if len(runs) > 1 else [{}]
    for run, reading in zip(runs[1:], others):
        for key in first.keys() & reading.keys():
            if first[key] != reading[key]:
                raise ContrastiveError(
                    f"{run} was trained with {key} {reading[key]}, {runs[0]} with {first[key]}: in one table "
                    "all are judged on the same items; probe them one by one"
                )
    return encoders


def _reading(encoder: FrozenEncoder) -> dict[str, Any]:
    """How the items of an encoder are read, as far as it is known."""
    options = {key: encoder.data.get(key) for key in (*GRAPH_OPTIONS, "normalize_features")}
    if not takes_graphs(encoder.encoder):
        options = {"image_size": image_size_of(encoder), "channels": in_channels(encoder)}
    return {key: value for key, value in options.items() if value is not None}


def run_names(runs: Sequence[str]) -> list[str]:
    """How runs are called in a table: one is ``pretrained``, several go by their folders' names."""
    if len(runs) == 1:
        return ["pretrained"]
    names = [Path(run).name for run in runs]
    names = names if len(set(names)) == len(names) else list(map(str, runs))
    return [f"run {name}" if name in OTHER_ROWS else name for name in names]


def results_folder(run: Path) -> Path:
    """``results`` of a run folder, also for a checkpoint in it; beside a checkpoint that lies elsewhere."""
    if run.parts[:1] == (HUB.strip("/"),):
        raise ContrastiveError("an encoder of the Hub has no folder to write results to; give --output")
    return run_folder(run) / "results"


def result_name(command: str, encoder: FrozenEncoder, protocol: Protocol, usual: Method) -> str:
    """The name of a result: the command's, with the method and the data where they are not as usual."""
    method = [] if protocol.method == usual else [protocol.method]
    own = protocol.data == encoder.data.get("source")
    data = [] if own else [re.sub(r"[^\w-]+", "_", Path(protocol.data.removesuffix(".gz")).stem)]
    return "-".join([command, *method, *data])
