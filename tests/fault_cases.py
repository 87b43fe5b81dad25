"""What a case in docs/faults.md is: something wrong, what meets it, and every word that comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """A row of docs/faults.md.

    Attributes:
        what: is wrong, in words.
        meet: makes it in a folder and meets it; raises, or returns what became of it in words.
        printed: the message, or what was returned; ``…`` stands for the folder.
        package: what is needed to be installed; empty where it is a dependency.
    """

    what: str
    meet: Callable[[Path], Any]
    printed: str
    package: str = ""
