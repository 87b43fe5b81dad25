"""The configurations that a command line names: where they are, and whether they can be read."""

from __future__ import annotations

from pathlib import Path

import yaml

from contrastive.errors import ContrastiveError


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
        ContrastiveError: there is no such file, or it is no YAML.
    """
    option, _, value = arg.partition("=")
    if option == "--config" and value:
        return f"--config={_well_formed(value)}"
    return _well_formed(arg) if arg.endswith((".yaml", ".yml")) and not arg.startswith("-") else arg


def _well_formed(path: str) -> str:
    """Where a configuration is; one that is no YAML is named, as jsonargparse names its line alone."""
    config = find_config(path)
    try:
        with config.open("rb") as file:
            yaml.safe_load(file)
    except yaml.YAMLError as error:
        raise ContrastiveError(f"{config} is no YAML: {' '.join(str(error).split())}") from error
    except OSError:  # which jsonargparse says
        pass
    return str(config)
