"""Modules built from a ``class_path`` and ``init_args``, also from those that a stranger's file names."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from torch import nn

from contrastive.errors import ContrastiveError
from contrastive.parse_errors import in_a_line

TRUST = "CONTRASTIVE_TRUST"  # environment variable: packages, separated by commas
_OURS = ("encoders.", "augmentations.", "contrastive.", "torch.nn.", "torch.optim.")
_INSTALLED = ("site-packages", "dist-packages")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def build_module(spec: dict[str, Any], *, own: bool = False) -> nn.Module:
    """Build a module from its ``class_path`` and ``init_args``.

    A file from elsewhere may name anything that is installed, and importing a package or building one of its
    classes can run code, fetch files or fill the memory. So a file's modules are this package's, those of
    ``torch.nn``, or the user's own, which no package manager installed; others where ``CONTRASTIVE_TRUST``
    names their package.

    Args:
        spec: as in a configuration.
        own: the configuration is the user's own, and may name what it likes.

    Raises:
        ContrastiveError: not a module, not one that a file may name, or it cannot be built.
    """
    named = () if own else (value for value in _strings(spec) if _DOTTED.fullmatch(value))
    return _built(nn.Module, spec, named, own)


def build_data(config: dict[str, Any], *, own: bool = False) -> Any:
    """Build the data module of a run, a ``LightningDataModule`` that has read nothing yet.

    Its seed is the run's, as it was in pretraining: a ``config.yaml`` has it once, as ``seed_everything``.

    Args:
        config: of the run.
        own: see `build_module`.

    Raises:
        ContrastiveError: the configuration has no data, or as of `build_module`.
    """
    from pytorch_lightning import LightningDataModule  # a second, which encoders do not need

    spec = config.get("data")
    named = () if own else _class_paths(spec if isinstance(spec, dict) else {"class_path": spec})
    return _built(LightningDataModule, spec, named, own, config.get("seed_everything"))


def _built(kind: type, spec: Any, named: Iterable[str], own: bool, seed: int | None = None) -> Any:
    """Build an object of a kind; ``named`` is what is looked at before anything is imported."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--module", type=kind)
    parser.add_argument("--seed", type=int | None)
    if seed is not None:
        parser.link_arguments("seed", "module.init_args.seed")  # where the class has one
    try:
        _check(named)
        parsed = parser.parse_object({"module": spec, "seed": seed})
        if not own:
            _check(_class_paths(parsed))  # a name without dots has become a path by now
        return parser.instantiate_classes(parsed).module
    except Exception as error:
        name = spec.get("class_path") if isinstance(spec, dict) else spec
        said = in_a_line(str(error)).removeprefix("module").lstrip(":. ")  # the argument's name, above
        raise ContrastiveError(f"cannot build {name}: {said}") from error


def _check(paths: Iterable[str]) -> None:
    trusted = {name.strip() for name in os.environ.get(TRUST, "").split(",")}
    for path in paths:
        package = path.partition(".")[0]
        if not path.startswith(_OURS) and package not in trusted and _is_installed(package):
            raise ValueError(
                f"it names {path}; without asking, a file's modules are built where they are this package's, "
                f"torch's layers or your own. If you trust the file, set {TRUST}={package} in the environment"
            )


def _is_installed(package: str) -> bool:
    """Whether a package is Python's or was installed; what is not there at all harms nobody."""
    if package in sys.stdlib_module_names:
        return True
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return any(part in _INSTALLED for place in places for part in Path(place).parts)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, held in value.items():
            yield from _strings(key)
            yield from _strings(held)
    elif isinstance(value, list | tuple):
        for held in value:
            yield from _strings(held)


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        for held in value.values():
            yield from _class_paths(held)
    elif isinstance(value, list | tuple):
        for held in value:
            yield from _class_paths(held)
