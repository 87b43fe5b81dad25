"""Pages of help where jsonargparse has none: of functions, and of what ``--model`` and ``--data`` may be."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Sequence
from contextlib import suppress

from jsonargparse import ArgumentParser

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


def help_page(args: Sequence[str]) -> str | None:
    """What ``--KEY.help PATH`` asks for where PATH is a function, or ``--model.help`` without a PATH.

    Args:
        args: a command line.

    Returns:
        The page; None where none is asked for, or that of a class.

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
        if page := _function(option, path):
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


def _function(option: str, path: str) -> str | None:
    function = None
    with suppress(ImportError, AttributeError, ValueError):  # which jsonargparse says
        function = pkgutil.resolve_name(path)
    if not inspect.isfunction(function):
        return None
    parser = ArgumentParser(usage=f"{option.removesuffix('.help')} {path}", add_help=False)
    parser.add_function_arguments(function, option.removeprefix("--").removesuffix(".help"))
    return parser.format_help()
