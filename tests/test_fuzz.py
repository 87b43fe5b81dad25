"""A slice of the fuzz run; ``python scripts/fuzz_readers.py --files 20000`` is the whole."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "fuzz_readers.py"


def run(*options):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, options)], capture_output=True, text=True, timeout=600
    )


def test_damaged_files_are_read_or_refused():
    done = run("--files", 400, "--seed", 3)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "400 damaged files" in done.stdout


def test_a_reader_that_lets_another_error_through_is_found(monkeypatch, capsys):
    """The check can fail: with a reader whose fault is known it does, and says where."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import fuzz_readers
    from fuzz_sources import READERS, Reader

    def read(folder):
        (folder / "a.txt").read_text(encoding="ascii")  # lets UnicodeDecodeError through

    def make(folder):
        (folder / "a.txt").write_text("0123456789" * 20)

    monkeypatch.setitem(READERS, "faulty", Reader(make, read))
    monkeypatch.setattr("sys.argv", ["fuzz", "--only", "faulty", "--files", "60"])
    assert fuzz_readers.main() == 1
    assert "UnicodeDecodeError" in capsys.readouterr().out
