"""The configurations that a command line names: where they are, and what is read in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from contrastive.errors import ContrastiveError

_SEEDS = ("model.seed", "model.init_args.seed", "data.seed", "data.init_args.seed")
_FOLLOWS = "{} has no effect: all draws follow from seed_everything, so give that"
_load_yaml = get_loader("yaml")


def find_config(path: str) -> Path:
    """A configuration by path; ``configs/…`` is also found in the installed package."""
    if Path(path).exists():
        return Path(path)
    name = Path(*Path(path).parts[1:]) if Path(path).parts[:1] == ("configs",) else Path(path)
    here = Path(__file__).parent
    for folder in (here / "configs", here.parent / "configs"):  # installed, or in a checkout
        if (folder / name).is_file():
            return folder / name
    raise ContrastiveError(f"there is no configuration {path}, here or among the ones installed")


def with_config_found(arg: str) -> str:
    """An argument of a command line; where it names a configuration, with the path of its file.

    Raises:
        ContrastiveError: there is no such file, or it is no YAML; or it gives a seed beside the run's.
    """
    option, _, value = arg.partition("=")
    if option.removeprefix("--") in _SEEDS:
        raise ContrastiveError(_FOLLOWS.format(option))
    if option == "--config" and value:
        return f"--config={_well_formed(value)}"
    return _well_formed(arg) if arg.endswith((".yaml", ".yml")) and not arg.startswith("-") else arg


def _well_formed(path: str) -> str:
    """Where a configuration is; one that is no YAML is named, as jsonargparse names its line alone."""
    config = find_config(path)
    try:
        with config.open("rb") as file:
            settings = yaml.safe_load(file)
    except yaml.YAMLError as error:
        raise ContrastiveError(f"{config} is no YAML: {' '.join(str(error).split())}") from error
    except OSError:  # which jsonargparse says
        return str(config)
    for key in _SEEDS:
        if _value_at(settings, key) is not None:
            raise ContrastiveError(_FOLLOWS.format(f"{key} in {config}"))
    return str(config)


def _value_at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


def read_none_as_null() -> None:
    """Have jsonargparse read None as null, as which it hands on that of ``--model.encoder.weights null``.

    By then it has dropped the quotes, so that no text can be None; a file of that name is ``./None``.
    """
    set_loader("yaml", lambda text: _nulls(_load_yaml(text)), exceptions=(yaml.YAMLError,))


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_nulls(held) for held in value]
    return None if value == "None" else value
