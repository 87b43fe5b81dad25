"""What a command line or a configuration has wrong, in a line: what, where, and the nearest right name."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser

_OURS = ("augmentations.", "contrastive.", "encoders.")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "names with values",
}
# what jsonargparse puts around the reason where a type has alternatives, as "or None"
_AROUND = re.compile(
    r"\s*(- )?(Does not validate against|Subtypes: |Errors:|Given value|Expected a <class 'NoneType'>|"
    r"Expected a path but |Parser key |Problem with given class_path|Not a valid subclass of|"
    r"Subclass types expect|a class path \(str\)|a dict with|\)?$)"
)


def in_a_line(text: str, options: Iterable[str] = ()) -> str:
    """Say what jsonargparse says, which is a line a level of nesting and all that a class was given, shortly.

    Args:
        text: what it says.
        options: those of the command, for the nearest to one that there is not.
    """
    keys = [*re.finditer(r'Parser key "([\w.]+)"', text)]
    where = ".".join(key[1] for key in keys)
    if found := re.search(r"class_path '([\w.]+)':\s+Option '(\w+)[\w.]*' is not accepted", text):
        if found[1].startswith("pytorch_lightning."):  # the base of what could be meant
            return (
                f"{where} has no class yet, so no option {found[2]}: give --{where} CLASS or --config first"
            )
        said = _no_option(found[1], found[2])
        return f"{said} (--{where}.help {found[1]} tells of them)" if options else said
    if found := re.search(r"^Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)", text):
        option = ".".join(filter(None, (where, found[1] or found[2])))
        return f"there is no option {option}{_nearest(option, options)}"
    if found := re.search(r"class_path '([\w.]+)':\s+the following arguments are required: (.+)", text):
        return f"{where}: {found[1]} needs {found[2]}"
    reason = text[keys[-1].end() :].lstrip(":") if keys else text
    said = _wrong_class(reason) or _refusal(reason) or _wrong_value(reason) or _bare(reason)
    return f"{where}: {said}" if where else said


def null_setting(config: Any, where: str = "") -> str | None:
    """What is null in a parsed configuration and cannot be, in words, as jsonargparse lets null pass for all.

    Args:
        config: the configuration as plain data, or a part of it.
        where: the part's name.
    """
    if isinstance(config, list):
        parts = {f"{where}[{i}]": part for i, part in enumerate(config)}
    elif isinstance(config, dict):
        made = _imported(str(config.get("class_path")))
        options = inspect.signature(made).parameters if callable(made) else {}
        config = config.get("init_args", config) or {}
        for name in options.keys() & config.keys():
            kind = getattr(options[name].annotation, "__name__", options[name].annotation)
            if kind in _KINDS and config[name] is None and options[name].default is not None:
                return f"{where}.{name}: expected {_KINDS[kind]}, but was given null"
        parts = {f"{where}.{name}".lstrip("."): part for name, part in config.items()}
    else:
        return None
    return next(filter(None, (null_setting(part, name) for name, part in parts.items())), None)


def _no_option(class_path: str, option: str) -> str:
    made, parser = _imported(class_path), ArgumentParser()
    if inspect.isclass(made):
        parser.add_class_arguments(made)
    elif made is not None:
        parser.add_function_arguments(made)
    names = [*parser.get_defaults().keys()]
    near = _nearest(option, names) or f"; it has {', '.join(names) or 'none'}"
    return f"{class_path} has no option {option}{near}"


def _wrong_class(reason: str) -> str | None:
    """What is said of a class path that leads to nothing, or to something else; None of other reasons."""
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", reason):
        names = _names_in(_imported(found[1]))
        return f"there is no {found[1]}.{found[2]}{_nearest(found[2], names, found[1] + '.')}"
    if found := re.search(r"No module named '([\w.]+)'", reason):
        return f"there is no module {found[1]}; a module of your own is found on PYTHONPATH"
    if found := re.search(r"Import path (\S*) ?does not correspond to a subclass of (\w+)", reason):
        return f"{found[1] or _given(reason)} is no {found[2]}"
    if (found := re.search(r"^\s*- Expected a dot import path string: (\w+)$", reason, re.MULTILINE)) and (
        "<class 'float'>" not in reason  # of a number or a tensor, where neither is meant as a class
    ):
        return f"{found[1]} is no class by itself: give its path{_nearest_path(found[1])}"
    return None


def _refusal(reason: str) -> str | None:
    """What a class said as it was built, for a value of one of several types; None of other reasons."""
    found = re.search(r"^  - Problem with given class_path '([\w.]+)':\n\s+(\S.*)", reason, re.MULTILINE)
    return f"{found[1]}: {found[2]}" if found else None


def _wrong_value(reason: str) -> str | None:
    """What is said of a value of another type; None of other reasons."""
    choices: list[str] = []
    for kind, literal in re.findall(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", reason):
        choices += [_KINDS.get(kind, kind)] if kind else re.findall(r"[^', ]+", literal)
    choices = [choice for choice in dict.fromkeys(choices) if choice != "NoneType"]
    if not choices:
        return None
    *others, last = choices
    return f"expected {', '.join(others) + ' or ' if others else ''}{last}, but was given {_given(reason)}"


def _given(reason: str) -> str:
    found = re.search(r"(?:Got|Given) value: (.*?)(\. Got value: .*)?$", reason, re.MULTILINE)
    return found[1] if found else "another"


def _bare(reason: str) -> str:
    """The lines that are no framework of jsonargparse's."""
    lines = [line.strip().removeprefix("- ") for line in reason.splitlines() if not _AROUND.match(line)]
    return "\n".join(lines) or reason


def _nearest(name: str, names: Iterable[str], before: str = "") -> str:
    close = difflib.get_close_matches(name, [*names])
    return f"; the nearest: {', '.join(before + other for other in close)}" if close else ""


def _nearest_path(name: str) -> str:
    """The paths of what is named nearly so in this project's modules, of those that were imported."""
    found = {
        n: f"{path}.{n}"
        for path, module in [*sys.modules.items()]
        if path.startswith(_OURS)
        for n, value in vars(module).items()
        if n[0] != "_" and getattr(value, "__module__", None) == path
    }
    close = difflib.get_close_matches(name, [*found])
    return f", as {' or '.join(found[other] for other in close)}" if close else ""


def _names_in(module: Any) -> list[str]:
    """Public classes and functions of a module, and the modules in it."""
    names = [n for n, value in getattr(module, "__dict__", {}).items() if n[0] != "_" and callable(value)]
    return names + [found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))]


def _imported(path: str) -> Any:
    """What a path of names leads to, None where that has not been imported: nothing is imported for it."""
    module, _, name = path.rpartition(".")
    if path in sys.modules or not module:
        return sys.modules.get(path)
    return getattr(_imported(module), name, None)
