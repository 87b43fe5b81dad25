"""Everything in docs/faults.md is met here, and prints word for word what stands there.

``python tests/test_faults.py`` prints the tables for the document.
"""

import ast
import importlib.util
import inspect
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import faults_graphs
import faults_images
import faults_tables
import pytest

from contrastive.errors import ContrastiveError

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "faults.md"
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


MILLION = """
import resource, sys
from contrastive.data.tables import read_smiles
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table = read_smiles(sys.argv[1], targets=["y"])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(table.smiles), table.targets.sum(), (after - before) // 1024)
"""


def test_a_table_of_a_million_rows_takes_no_more_than_it_holds(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text(
        "name,smiles,y\n" + "".join(f"m{i},CC(=O)Oc1ccccc1C(=O)O,{i % 2}\n" for i in range(10**6))
    )
    done = subprocess.run([sys.executable, "-c", MILLION, file], capture_output=True, text=True, check=True)
    rows, ones, megabytes = done.stdout.split()
    assert (int(rows), float(ones)) == (10**6, 500_000) and int(megabytes) < 500


def test_the_command_prints_one_message_and_nothing_else(command, tmp_path):
    """A corrupt image that a worker of the loader meets in training."""
    for i in range(40):
        (tmp_path / "pets").mkdir(exist_ok=True)
        faults_images.noise().save(tmp_path / "pets" / f"{i:02}.png")
        if i % 2:
            (tmp_path / "pets" / f"{i:02}.png").write_bytes(b"not an image")
    views = {"class_path": "augmentations.image.simclr", "init_args": {"size": 8, "scale": None}}
    options = {
        "config": "configs/image/simclr_cifar10.yaml",
        "run_dir": tmp_path / "run",
        "wandb": "off",
        "data.init_args.source": tmp_path / "pets",
        "data.init_args.batch_size": 8,
        "data.init_args.num_workers": 1,
        "data.init_args.crop.size": 8,
        "data.init_args.val_fraction": 0.0,
        "model.views": json.dumps([views]),
        "model.encoder.init_args.width": 2,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
    }
    done = command("pretrain", *(f"--{key}={value}" for key, value in options.items()))
    assert done.returncode == 1
    (message,) = [line for line in done.stderr.splitlines() if "Seed set" not in line]
    assert message.startswith("contrastive pretrain: error: ") and message.endswith(faults_images.REPAIR)


def loads(file):
    """The calls of torch.load and numpy.load in a file, with their options."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
            yield (
                ast.unparse(node.func),
                {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords},
            )


def test_files_are_loaded_as_numbers_alone():
    """What else would run a stranger's code, the linter refuses (rules S in pyproject.toml)."""
    files = [
        file
        for part in ("contrastive", "encoders", "augmentations", "scripts")
        for file in (ROOT / part).rglob("*.py")
    ]
    found = [(file.name, *call) for file in files for call in loads(file)]
    assert {name for _, name, _ in found} == {"torch.load", "np.load"}
    assert all(options.get("weights_only") == "True" for _, name, options in found if name == "torch.load")
    assert all(
        options.get("allow_pickle", "False") == "False" for _, name, options in found if name == "np.load"
    )


def row(fault):
    return f"| {fault.what} | {fault.printed.replace('|', chr(92) + '|')} |"


def test_the_document_has_every_fault():
    text = DOCUMENT.read_text()
    assert not [row(fault) for fault in FAULTS if row(fault) not in text]


if __name__ == "__main__":
    for title, section in SECTIONS.items():
        print(f"## {title}\n\n| what is wrong | what is printed |\n|---|---|")
        print("\n".join(map(row, section)), end="\n\n")
