"""Everything in docs/faults.md is met here, and prints word for word what stands there.

``python tests/test_faults.py`` prints the tables for the document.
"""

import importlib.util
import inspect
import logging
import os
from pathlib import Path

import faults_graphs
import faults_images
import faults_tables
import pytest

from contrastive.errors import ContrastiveError

DOCUMENT = Path(__file__).parent.parent / "docs" / "faults.md"
SECTIONS = {
    "Images": faults_images.FAULTS,
    "Molecules": faults_tables.FAULTS,
    "Graphs": faults_graphs.FAULTS,
}
FAULTS = [fault for section in SECTIONS.values() for fault in section]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
@pytest.mark.filterwarnings("ignore")
def test_a_fault_prints_what_the_document_says(fault, tmp_path, caplog):
    if fault.package and importlib.util.find_spec(fault.package) is None:
        pytest.skip(f"needs {fault.package}")
    options = {"caplog": caplog} if "caplog" in inspect.signature(fault.meet).parameters else {}
    with caplog.at_level(logging.WARNING, "contrastive"):
        try:
            said = fault.meet(tmp_path, **options)
        except ContrastiveError as error:
            said = str(error)
        except ValueError as error:  # of GraphBatch in Python, which knows no ContrastiveError
            assert fault.what.startswith("in Python")
            said = str(error)
    assert said.replace(str(tmp_path), "…") == fault.printed
    assert not os.path.exists("/tmp/contrastive-was-here")


def row(fault):
    return f"| {fault.what} | {fault.printed.replace('|', chr(92) + '|')} |"


def test_the_document_has_every_fault():
    text = DOCUMENT.read_text()
    assert not [row(fault) for fault in FAULTS if row(fault) not in text]


if __name__ == "__main__":
    for title, section in SECTIONS.items():
        print(f"## {title}\n\n| what is wrong | what is printed |\n|---|---|")
        print("\n".join(map(row, section)), end="\n\n")
