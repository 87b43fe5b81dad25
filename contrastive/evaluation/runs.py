"""The runs that an evaluation judges: opened, named in its table, and where its results go."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contrastive.errors import ContrastiveError
from contrastive.evaluation.protocol import Method, Protocol
from contrastive.features import FrozenEncoder, in_channels, load_encoder, takes_graphs
from contrastive.items import GRAPH_OPTIONS, image_size_of, unit_of
from contrastive.saved import HUB, LAST, run_folder

OTHER_ROWS = ("untrained", "raw", "scratch")  # of a table, which no run is called
_LONGEST = 150  # bytes of a result's name; file systems take 255 with what is appended


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
    options["items"] = "nodes" if unit_of(encoder, "") == "nodes" else "graphs"
    if not takes_graphs(encoder.encoder):
        options = {"image_size": image_size_of(encoder), "channels": in_channels(encoder), "items": "images"}
    return {key: value for key, value in options.items() if value is not None}


def run_names(runs: Sequence[str]) -> list[str]:
    """How runs are called in a table: one is ``pretrained``, several go by their folders' names."""
    if len(runs) == 1:
        return ["pretrained"]
    names = [Path(os.path.abspath(run)).name for run in runs]  # of . too
    names = names if len(set(names)) == len(names) else list(map(str, runs))
    return [f"run {name}" if name in OTHER_ROWS else name for name in names]


def results_folder(run: Path) -> Path:
    """``results`` of a run folder, also for a checkpoint in it; beside a checkpoint that lies elsewhere."""
    if run.parts[:1] == (HUB.strip("/"),):
        raise ContrastiveError("an encoder of the Hub has no folder to write results to; give --output")
    return run_folder(run) / "results"


def result_name(
    command: str,
    runs: Sequence[str],
    first: FrozenEncoder,
    protocol: Protocol,
    usual: Method,
    further: dict[str, Any] | None = None,
) -> str:
    """The name of a result: the command's, with all that is not as usual, so that each question has its own.

    Args:
        command: that judges.
        runs: that it judges; further ones than the first are named.
        first: the first run's encoder, which knows what data is its own.
        protocol: by which it judges.
        usual: the method that is usual for the data.
        further: settings of the command that are not as usual.
    """
    method = [] if protocol.method == usual else [protocol.method]
    own = protocol.data == first.data.get("source")
    data = [] if own else [re.sub(r"[^\w-]+", "_", Path(protocol.data.removesuffix(".gz")).stem)]
    asked, usually = protocol.to_json(), Protocol(protocol.data, protocol.method).to_json()
    for settings in (asked, usually):
        settings |= {f"finetuning.{key}": value for key, value in settings.pop("finetuning").items()}
    changed = {key: value for key, value in asked.items() if value != usually[key]}
    return file_name(command, runs[0], [*method, *data, *run_names(runs)[1:]], changed | (further or {}))


def file_name(command: str, run: str, parts: Sequence[str], settings: dict[str, Any]) -> str:
    """A command's name with the checkpoint's, where it is not its run's last one, parts and settings."""
    path = Path(run)
    checkpoint = [path.stem] if path.is_file() and path != run_folder(path) / LAST else []
    options = [f"{key}={','.join(v) if isinstance(v, list) else v}" for key, v in settings.items()]
    words = [command, *checkpoint, *parts, *options]
    name = "-".join(re.sub(r"[^\w.,=-]+", "_", word) for word in words)
    if len(name.encode()) <= _LONGEST:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{name.encode()[:_LONGEST].decode(errors='ignore')}-{digest}"


def unusual(command: Callable[..., None], settings: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's settings that are not its defaults."""
    usual = inspect.signature(command).parameters
    return {key: value for key, value in settings.items() if value != usual[key].default}


def result_file(name: str, runs: Sequence[str], protocol: Protocol, folder: Path | None = None) -> Path:
    """Where a result is written of which only the name is known: in ``folder``, or the first run's results.

    Raises:
        ContrastiveError: the file is there, of other runs or another protocol: names can be alike, as those
            of two tables in two folders.
    """
    file = (folder or results_folder(Path(runs[0]))) / f"{name}.json"
    known = 0 if folder else 1  # in its own folder the first run may be written otherwise
    try:
        content = json.loads(file.read_text())
        held = {"runs": content["runs"][known:], **content["protocol"]}
    except (OSError, ValueError, KeyError, TypeError):  # not there, or no result
        return file
    for key, now in {**protocol.to_json(), "runs": list(runs[known:])}.items():
        if key != "selection" and not _same(held.get(key), now):
            raise ContrastiveError(
                f"{file} is the result of another question, with {key} {held.get(key)} instead of {now}; "
                "give this one another --output, or remove that one"
            )
    return file


def _same(a: Any, b: Any) -> bool:
    """Whether two settings are equal, or paths to one place."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b or (isinstance(a, str) and isinstance(b, str) and Path(a).resolve() == Path(b).resolve())
