import ctypes
import os
import subprocess
import sys

import pytest

from contrastive.runtime import keep_freed_memory

# The pages that the system hands out for ten blocks of 4 MiB, written and freed, ten times over.
FAULTS = """
import resource, torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        held = [torch.ones(2**20) for _ in range(10)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""


def has_mallopt():
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


def run(code, **environ):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()[-2:]]


@pytest.mark.skipif(not has_mallopt(), reason="malloc is not GNU's")
def test_the_command_keeps_freed_memory_unless_the_user_set_malloc(clean_environ):
    code = "from contrastive.cli import main; main(['--help'])" + FAULTS + "print(faults(), faults())"
    first, kept = run(code, **clean_environ)
    # as the user asks for, blocks that are mapped one by one, whose pages come anew every time
    _, anew = run(code, **clean_environ, MALLOC_MMAP_THRESHOLD_="65536")
    assert kept <= first / 10 and kept < anew / 10


def test_another_libc_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()


@pytest.fixture
def clean_environ():
    return {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}


@pytest.mark.skipif(os.name != "posix", reason="nothing is started again")
@pytest.mark.parametrize("setting,mode", [({}, "1"), ({"PYTHONUTF8": "0"}, "0")])
def test_the_command_starts_again_in_utf8_unless_the_user_set_it(clean_environ, setting, mode):
    code = (
        "import locale, sys; locale.getpreferredencoding = lambda _: 'ISO-8859-1'\n"
        "from contrastive.runtime import start_in_utf8; start_in_utf8()\n"
        "print(sys.argv[1], sys.flags.utf8_mode)"
    )
    environ = clean_environ | {"LC_ALL": "C.UTF-8"} | setting  # in C Python takes UTF-8 by itself
    command = [sys.executable, "-c", code, "word"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.stdout.split() == ["word", mode], done.stderr
