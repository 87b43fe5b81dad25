"""The commands and the Python of the README and of two guides are run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from contrastive.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()
GUIDES = Path(__file__).parent.parent / "docs"
CONSOLE = [line for block in re.findall(r"```console\n(.*?)```", README, re.S) for line in block.splitlines()]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.fixture(scope="module")
def folder(digits_run, tmp_path_factory):
    """Where the README's reader stands: with a run in runs/digits."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "runs").mkdir()
    (folder / "runs" / "digits").symlink_to(digits_run)
    return folder


@pytest.mark.parametrize("line", CONSOLE)
def test_command(line, command, folder):
    if "--run_dir runs/digits" in line:
        pytest.skip("the shared fixture has run this very command, with fewer epochs")
    program, *args = line.split("#")[0].split()
    assert program == "contrastive"
    done = command(*args, cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", PYTHON)
def test_python(code, folder):
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=600)


@pytest.mark.parametrize("guide", ["evaluation.md", "export.md"])
def test_guide(guide, digits_run, tmp_path, monkeypatch):
    """Its blocks in their order, for the later ones open what the earlier ones write."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(digits_run)
    monkeypatch.chdir(tmp_path)
    for language, block in re.findall(r"```(console|python)\n(.*?)```", (GUIDES / guide).read_text(), re.S):
        if language == "python":
            exec(block, {})
        else:
            assert all(main(line.split()[1:]) == 0 for line in block.splitlines())


@pytest.mark.parametrize("document", ["README.md", *sorted(f"docs/{p.name}" for p in GUIDES.glob("*.md"))])
def test_every_link_and_picture_is_there(document):
    file = GUIDES.parent / document
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text())
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (file.parent / link).exists()]
