"""The console command ``contrastive``: parses and hands on, nothing else."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import json
import os
import sys
from collections.abc import Callable

from contrastive.runtime import set_up_process, start_in_utf8

COMMANDS = {
    "quickstart": ("contrastive.quickstart", "pretrain on digits without labels and compare, in a minute"),
    "pretrain": ("contrastive.pretrain", "pretrain an encoder as a configuration says"),
    "views": ("contrastive.views", "save a picture of a configuration's augmentations"),
    "probe": (
        "contrastive.evaluation.probe",
        "judge encoders on labelled data: linear, knn, svm, fine-tuned",
    ),
    "label-efficiency": (
        "contrastive.evaluation.label_efficiency",
        "draw accuracy over the number of labels, beside no pretraining",
    ),
    "compare": ("contrastive.evaluation.compare", "test whether one of two runs is better"),
    "inspect": ("contrastive.evaluation.inspection", "measure alignment, uniformity and rank without labels"),
    "links": (
        "contrastive.evaluation.link_report",
        "evaluate predicted links, and write the best new ones",
    ),
    "neighbours": ("contrastive.neighbours", "show the items most similar to some, as a page of pictures"),
    "embed": ("contrastive.embed", "write the features of a data set to a file"),
    "predict": ("contrastive.predict", "write what a saved probe predicts of a data set to a file"),
    "export": ("contrastive.export", "write the encoder alone, for use elsewhere"),
}

CONFIGURED = ("pretrain", "views")  # these take a whole configuration, and parse it themselves


def main(argv: list[str] | None = None) -> int:
    """Run a command; print what a user can mend as one message and return a non-zero status."""
    if argv is None:
        start_in_utf8()
    set_up_process()
    name, *args = (sys.argv[1:] if argv is None else argv) or [""]
    if name not in COMMANDS:
        return _usage(name)
    if name in CONFIGURED:  # not where a stranger's file is opened, beside which may lie what it names
        with contextlib.suppress(OSError):
            sys.path.append(os.getcwd())  # classes of the user's own, after all else
    # of an option's beginning for the whole of it, at length, to whoever wrote the parser
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from jsonargparse import ArgumentError, auto_cli

    from contrastive.errors import ContrastiveError
    from contrastive.signals import ended_by_sigterm

    command = getattr(importlib.import_module(COMMANDS[name][0]), name.replace("-", "_"))
    try:
        if name in CONFIGURED:
            command([_underscored(arg) for arg in args])
        else:
            args = _with_runs(command, _with_flags(command, [_underscored(arg) for arg in args]))
            prog = f"contrastive {name}{' RUN …' if _takes_runs(command) else ''}"
            with ended_by_sigterm():
                auto_cli(command, args=args, prog=prog, exit_on_error=False)
        sys.stdout.flush()
    except ArgumentError as error:
        print(
            f"contrastive {name}: error: {_said(error, command)}\n"
            f"(contrastive {name} --help lists the options)",
            file=sys.stderr,
        )
        return 2
    except ContrastiveError as error:
        status = getattr(error, "status", 0)  # of a run that a signal stopped
        print(f"contrastive {name}: {'' if status else 'error: '}{error}", file=sys.stderr)
        return status or 1
    except KeyboardInterrupt:
        print(f"contrastive {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads what is printed, as head does, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _said(error: Exception, command: Callable[..., None]) -> str:
    from contrastive.parse_errors import in_a_line

    return in_a_line(str(error), inspect.signature(command).parameters)


def _usage(name: str) -> int:
    asked = name in ("-h", "--help")
    lines = ["usage: contrastive COMMAND [OPTIONS]", ""]
    lines += [f"  {command:<18}{what}" for command, (_, what) in COMMANDS.items()]
    lines += ["", "contrastive COMMAND --help tells a command's options."]
    if name and not asked:
        lines.insert(0, f"contrastive: error: there is no command {name!r}\n")
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def _underscored(arg: str) -> str:
    """``--labels-per-class`` is ``--labels_per_class``, and ``--from``, a word of Python's, ``--from_``."""
    option, equals, value = arg.partition("=")
    option = "--from_" if option == "--from" else option
    return (
        option.replace("-", "_").replace("__", "--", 1) + equals + value if option.startswith("--") else arg
    )


def _takes_runs(command: Callable[..., None]) -> bool:
    return "runs" in inspect.signature(command).parameters


def _with_runs(command: Callable[..., None], args: list[str]) -> list[str]:
    """``probe A B --k 5``, and ``probe --k 5 A B``, is ``probe --runs=["A", "B"] --k 5``."""
    if not _takes_runs(command):
        return args
    runs: list[str] = []
    options: list[str] = []
    rest = iter(args)
    for arg in rest:
        if not arg.startswith("-"):
            runs.append(arg)
            continue
        options.append(arg)
        if "=" not in arg and arg not in ("-h", "--help", "--print_config"):  # all others take one value
            options += itertools.islice(rest, 1)
    return [f"--runs={json.dumps(runs)}", *options] if runs else args


def _with_flags(command: Callable[..., None], args: list[str]) -> list[str]:
    """``--graphs`` alone, an option that is true or false, is ``--graphs=true``."""
    options = inspect.signature(command).parameters.values()
    flags = {f"--{option.name}" for option in options if str(option.annotation).startswith("bool")}
    followers = [*args[1:], "--"]
    values = ("true", "false", "yes", "no", "null", "none", "on", "off", "0", "1")
    return [
        f"{arg}=true" if arg in flags and follower.lower() not in values else arg
        for arg, follower in zip(args, followers)
    ]


if __name__ == "__main__":
    sys.exit(main())
