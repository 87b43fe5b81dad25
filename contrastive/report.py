"""What a person sees of a run: progress, tables, pictures, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track as rich_track
from rich.table import Table
from safetensors import SafetensorError

from contrastive.errors import ContrastiveError

T = TypeVar("T")
_WIDTH = 120  # characters of a table that goes into a file


def track(items: Iterable[T], description: str | None, total: float | None = None) -> Iterable[T]:
    """Iterate behind a progress bar on a terminal; without a description, or into a file, without one."""
    if description is None or not sys.stderr.isatty():
        return items
    return rich_track(items, description, total, console=Console(stderr=True), transient=True)


def percent(row: dict[str, Any]) -> str:
    """An accuracy in percent, with its interval."""
    low, high = row["accuracy_ci95"]
    return f"{100 * row['accuracy_mean']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
    """Print a table under its title, columns of numbers to the right and of words to the left."""
    lines = [list(row) for row in rows]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(header):
        numbers = i > 0 and all(re.match(r"[-+\[.\d]|$", line[i]) for line in lines)
        table.add_column(column, justify="right" if numbers else "left")
    for line in lines:
        table.add_row(*line)
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if narrow else _WIDTH, highlight=False)
    if title:
        console.print(title, style="bold", markup=False)
    console.print(table)
    if caption:
        console.print(caption, style="dim", markup=False)


def cache_home() -> Path:
    """The folder of all caches, ``$XDG_CACHE_HOME/contrastive`` or ``~/.cache/contrastive``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contrastive"


def write_json(file: Path, content: Any) -> None:
    """Write a result whole or not at all.

    Raises:
        ContrastiveError: the file cannot be written.
    """
    write_whole(file, lambda part: part.write_text(json.dumps(content, indent=2) + "\n"))


_ANOTHER = "give another with --output"


def write_whole(file: Path, write: Callable[[Path], Any], *, advice: str = _ANOTHER) -> None:
    """Have ``write`` fill a file beside ``file``, and put it in its place when it is whole.

    Several processes may write the same file; the last one's stays.

    Args:
        file: its folder is made where there is none.
        write: called with the path of a file to make.
        advice: what the message says to do where it cannot be written.

    Raises:
        ContrastiveError: the file cannot be written.
    """
    part = _part_of(file)
    try:
        with _writing(file, advice):
            write(part)
            part.replace(file)
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)


def require_writable(file: Path) -> None:
    """Refuse, before any work, a file that could not be written; what was tried leaves nothing behind.

    Raises:
        ContrastiveError: as of `write_whole`.
    """
    if file.is_dir():
        raise ContrastiveError(f"cannot write {file}: it is a folder; {_ANOTHER}")
    part = _part_of(file)
    missing = [folder for folder in file.parents if not folder.exists()]
    with _writing(file, _ANOTHER):
        part.touch()
        part.unlink()
    for folder in missing:
        with suppress(OSError):  # another process writes there by now
            folder.rmdir()


def require_folder(file: Path) -> None:
    """Refuse, before any work, a file that could not be written, or has no folder to be written to."""
    if not file.parent.is_dir():
        raise ContrastiveError(f"cannot write {file}: there is no folder {file.parent}")
    require_writable(file)


def _part_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.{os.getpid()}.part")


@contextmanager
def _writing(file: Path, advice: str) -> Iterator[None]:
    """A block that writes into the folder of ``file``, which is made where there is none."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:  # safetensors raises its own of a full disk
        reason = getattr(error, "strerror", None) or error
        raise ContrastiveError(f"cannot write {file}: {reason}; {advice}") from error
    except UnicodeEncodeError as error:  # of a file's name, which may be any bytes
        near = error.object[max(0, error.start - 20) : error.end + 20]
        raise ContrastiveError(
            f"cannot write {file}: the name with {near!r} is no {error.encoding}; rename the file"
        ) from error


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Have a block fill a folder beside ``folder``, and put it in its place when it is whole.

    Raises:
        ContrastiveError: the folder exists, or cannot be written.
    """
    with _folder_beside(folder) as part:
        yield part
        part.replace(folder)


def require_new_folder(folder: Path) -> None:
    """Refuse, before any work, a folder that exists or cannot be made.

    Raises:
        ContrastiveError: as of `whole_folder`.
    """
    with _folder_beside(folder):
        pass


@contextmanager
def _folder_beside(folder: Path) -> Iterator[Path]:
    if folder.exists():
        raise ContrastiveError(f"{folder} exists already; give a folder that does not")
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
    except OSError as error:
        reason = error.strerror or error
        raise ContrastiveError(f"cannot write {folder}: {reason}; give another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def plot_embedding(panels: dict[str, np.ndarray], y: np.ndarray, classes: Sequence[str], file: Path) -> None:
    """Draw the two first principal components of features, coloured by class, a panel a representation.

    Args:
        panels: a title and its features ``(N, D)``.
        y: ``(N,)`` int, the classes.
        classes: their names.
        file: the picture to write.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # no pyplot, whose backend is the caller's; it takes long to import
    from sklearn.decomposition import PCA

    figure = Figure(figsize=(5 * len(panels), 5))
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, h) in zip(axes[0], panels.items()):
        xy = PCA(2, random_state=0).fit_transform(h)
        for c, name in enumerate(classes):
            axis.scatter(*xy[y == c].T, s=9, color=colormaps["tab10"](c % 10), label=name, linewidths=0)
        axis.set(title=title, xticks=[], yticks=[])
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, frameon=False)
    figure.savefig(file, dpi=150, bbox_inches="tight")


def plot_label_efficiency(
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]],
    ticks: dict[float, str],
    file: Path,
    *,
    ylabel: str = "test accuracy, %",
    chance: float | None = None,
) -> None:
    """Draw a metric over labels a class with its 95 % interval, a line a representation.

    Args:
        lines: by name, points of labels a class, the mean in [0, 1] and the ends of its interval.
        ticks: what stands at numbers of labels.
        file: the picture to write.
        ylabel: what the metric is.
        chance: what guessing gives, in [0, 1]; None draws no line there.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.5))
    axis = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        x, (mean, low, high) = np.array(points)[:, 0], 100 * np.array(points)[:, 1:].T
        beside = x * 1.03 ** (i - (len(lines) - 1) / 2)  # so that intervals do not hide one another
        axis.errorbar(
            beside, mean, yerr=(mean - low, high - mean), marker="o", markersize=4, capsize=2, label=name
        )
    if chance is not None:
        axis.axhline(100 * chance, color="grey", linestyle=":", label="chance")
    axis.set(xscale="log", xlabel="labels a class", ylabel=ylabel)
    axis.set_xticks(list(ticks), list(ticks.values()))
    bottom, top = axis.get_ylim()
    axis.set_ylim(max(bottom, -2), min(top, 102))  # intervals of a few draws reach beyond
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(framealpha=0.9, edgecolor="none")
    figure.tight_layout()
    figure.savefig(file, dpi=150, format="png")
