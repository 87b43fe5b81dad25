"""``scripts/audit`` fails on a known vulnerability, and on nothing else; a stand-in answers for PyPI."""

import subprocess
from pathlib import Path

import pytest

AUDIT = Path(__file__).parent.parent / "scripts" / "audit"
STAND_IN = """#!/bin/sh
case "$1" in
  -c) exit {installed} ;;
  -) cat >/dev/null; exit {reached} ;;
  -m) echo "{said}"; exit {status} ;;
esac
"""


@pytest.mark.parametrize(
    ("answers", "status", "says"),
    [
        ({"said": "Found 1 known vulnerability in 1 package", "status": 1}, 1, "Found 1 known"),
        ({"said": "No known vulnerabilities found"}, 0, "No known"),
        ({"said": "ConnectionError", "status": 1}, 0, "audit skipped: pip-audit ended on another error"),
        ({"reached": 1}, 0, "audit skipped: the database of pypi.org cannot be reached"),
        ({"installed": 1}, 0, "audit skipped: pip install pip-audit"),
    ],
)
def test_only_a_known_vulnerability_fails(answers, status, says, tmp_path):
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(**{"installed": 0, "reached": 0, "said": "", "status": 0} | answers))
    python.chmod(0o755)
    done = subprocess.run([AUDIT, python], capture_output=True, text=True)
    assert done.returncode == status and says in done.stdout
