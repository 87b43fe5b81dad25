"""Pages of help where jsonargparse has none, or one of thousands of lines: of functions, and of classes."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Sequence
from contextlib import suppress

from jsonargparse import ArgumentParser
from pytorch_lightning import LightningDataModule, LightningModule
from torch import nn

from contrastive.errors import ContrastiveError

_CLASSES = {
    "--model": (
        "contrastive.module.ContrastiveModule",
        "contrastive.methods.multi_crop.MultiCrop",
        "contrastive.methods.fingerprint.FingerprintContrast",
        "contrastive.methods.local_global.InfoGraph",
        "contrastive.methods.local_global.DGI",
        "contrastive.methods.links.LinkPrediction",
    ),
    "--data": (
        "contrastive.data.images.ImageData",
        "contrastive.data.image_streams.ImageStream",
        "contrastive.data.graphs.GraphData",
        "contrastive.data.molecules.MoleculeData",
        "contrastive.data.nodes.NodeData",
        "contrastive.data.links.LinkData",
    ),
}


_KINDS = {"model": LightningModule, "data": LightningDataModule}  # of other keys modules of torch's


def help_page(args: Sequence[str]) -> str | None:
    """What ``--KEY.help PATH`` asks for, or ``--model.help`` and ``--data.help`` without a PATH.

    Args:
        args: a command line.

    Returns:
        The page; None where none is asked for, or that of a class which jsonargparse tells of.

    Raises:
        ContrastiveError: another ``--KEY.help`` without a PATH.
    """
    for option, path in zip(args, [*args[1:], ""]):
        option, equals, value = option.partition("=")
        key = option.removesuffix(".help")
        if key == option or not key.startswith(("--model", "--data", "--trainer.")):
            continue
        path = value if equals else path
        if not path or path.startswith("-"):
            return _classes(option)
        if page := _settings(option, path):
            return page
    return None


def _classes(option: str) -> str:
    paths = _CLASSES.get(option.removesuffix(".help"))
    if paths is None:
        raise ContrastiveError(f"{option} tells of one class: give its path, {option} PATH")
    lines = [f"{option} PATH tells of the settings of one of these, or of your own:"]
    for path in paths:
        said = (inspect.getdoc(pkgutil.resolve_name(path)) or "").partition("\n")[0]
        lines += ["", f"  {path}", f"      {said}"]
    return "\n".join(lines)


def _settings(option: str, path: str) -> str | None:
    """The page of a function or of a module of torch's, without all others that could be nested in it."""
    found = None
    with suppress(ImportError, AttributeError, ValueError):  # which jsonargparse says
        found = pkgutil.resolve_name(path)
    key = option.removesuffix(".help").removeprefix("--")
    parser = ArgumentParser(usage=f"--{key} {path}", add_help=False)
    if inspect.isfunction(found):
        parser.add_function_arguments(found, key)
    elif inspect.isclass(found) and issubclass(found, _KINDS.get(key, nn.Module)):
        parser.add_class_arguments(found, key, fail_untyped=False)
    else:
        return None
    return re.sub(r",\s+known\s+subclasses:[^)]*\)", ")", parser.format_help())
