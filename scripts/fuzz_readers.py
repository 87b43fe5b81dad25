"""Damage files by the thousand and read them: the answer must be data or a ContrastiveError that names them.

    python scripts/fuzz_readers.py --files 20000 --seed 0

Each file is drawn from a good source (fuzz_sources.py) and damaged: bits flipped, bytes set, cut, moved,
repeated, numbers replaced, pieces of another file of the source put in; half of the archives and compressed
files are damaged inside and packed again, so that their checksums are right. Every file is read in a guarded
process (``contrastive.data.processes``), so that a crash or a hang of native code is counted, not suffered.
An outcome follows from (seed, reader, number): ``--only READER --number N`` repeats one and shows where it
failed. Exits with 1 where anything but a ContrastiveError came out.
"""

from __future__ import annotations

import argparse
import gzip
import io
import logging
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from fuzz_sources import READERS, installed

from contrastive.data.processes import Failure, guarded_map
from contrastive.errors import ContrastiveError
from contrastive.report import print_table

TOKENS = (
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"-1",
    b"nan",
    b"inf",
    b"1e999",
    b"9" * 30,
    b"0",
    b"\n",
    b",",
    b'"',
    b"\0",
    b"\r",
    b"\xc3",
    b"../../x",
    b"null",
    b"[]",
    b"{}",
    b"1.5",
    b" ",
    b"\x80\x04",
)
HEADROOM = 3 * 2**30  # bytes a reader may ask for, so that a header's large number cannot take the machine
TIME_LIMIT = 120.0  # seconds a file may take


def damaged(content: bytes, rng: random.Random, other: bytes) -> bytes:
    """Content with one to four things wrong with it."""
    for _ in range(rng.randint(1, 4)):
        content = rng.choice((_flip, _set, _cut, _drop, _repeat, _swap, _insert, _replace_number))(
            content, rng, other
        )
    return content


def _span(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + int(rng.expovariate(1 / 8)) + 1)


def _flip(content: bytes, rng: random.Random, other: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(min(len(changed), rng.choice((1, 1, 2, 8)))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(content: bytes, rng: random.Random, other: bytes) -> bytes:
    a, b = _span(content, rng)
    return content[:a] + bytes([rng.choice((0, 255, rng.randrange(256)))]) * (b - a) + content[b:]


def _cut(content: bytes, rng: random.Random, other: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _drop(content: bytes, rng: random.Random, other: bytes) -> bytes:
    a, b = _span(content, rng)
    return content[:a] + content[b:]


def _repeat(content: bytes, rng: random.Random, other: bytes) -> bytes:
    a, b = _span(content, rng)
    return content[:b] + content[a:b] * rng.randint(1, 20) + content[b:]


def _swap(content: bytes, rng: random.Random, other: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(content, rng), _span(content, rng)))
    return content if b > c else content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _insert(content: bytes, rng: random.Random, other: bytes) -> bytes:
    place, (a, b) = rng.randrange(len(content) + 1), _span(other, rng)
    piece = rng.choice((rng.choice(TOKENS), rng.randbytes(rng.randint(1, 8)), other[a:b]))
    return content[:place] + piece + content[place + rng.choice((0, len(piece))) :]


def _replace_number(content: bytes, rng: random.Random, other: bytes) -> bytes:
    digits = [i for i, byte in enumerate(content[:20000]) if 48 <= byte <= 57]
    if not digits:
        return content
    place = rng.choice(digits)
    return content[:place] + rng.choice(TOKENS) + content[place + 1 :]


def damaged_inside(content: bytes, rng: random.Random, other: bytes) -> bytes:
    """A gzipped file or a zip of which a part is damaged and packed again; anything else as it is."""
    if content[:2] == b"\x1f\x8b":
        return gzip.compress(damaged(gzip.decompress(content), rng, other), 1, mtime=0)
    if content[:2] != b"PK":
        return damaged(content, rng, other)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    victim = rng.choice(list(members))
    members[victim] = damaged(members[victim], rng, rng.choice(list(members.values())))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return packed.getvalue()


class Attempt:
    """Damages and reads file ``number`` of a reader, in a guarded process.

    Args:
        sources: the folder with a good source for each reader.
        seed: of the damage.
    """

    def __init__(self, sources: Path, seed: int) -> None:
        self.sources, self.seed = sources, seed
        self.process = 0

    def __call__(self, item: tuple[str, int]) -> str:
        """``read``, ``refused``, or what is wrong with how it was refused."""
        self._settle()
        folder = self.place(item)
        try:
            READERS[item[0]].read(folder)
        except ContrastiveError as error:
            named = str(folder) in str(error)
            return "refused" if named else f"does not say which file: {str(error)[:150]}"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            ours = [
                frame
                for frame in where
                if "/contrastive/" in frame.filename or "/encoders/" in frame.filename
            ]
            last = (ours or where)[-1]
            return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:150]}"
        return "read"

    def _settle(self) -> None:
        """Once a process: bounded memory, nothing on the terminal, and files of its own."""
        if self.process == os.getpid():
            return
        self.process = os.getpid()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, used + HEADROOM))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        # what is read in a process of its own, as DGL's files are, is read so here too
        multiprocessing.process.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        torch.set_num_threads(1)
        logging.disable()
        warnings.simplefilter("ignore")

    def place(self, item: tuple[str, int]) -> Path:
        """Write the source of a reader into this process's folder, with one file damaged."""
        name, number = item
        folder = self.sources / str(self.process) / slug(name)
        contents = {path: path.read_bytes() for path in good_files(self.sources, name)}
        rng = random.Random(f"{self.seed} {name} {number}")
        victim, other = rng.choice(list(contents)), rng.choice(list(contents.values()))
        damage = rng.choice((damaged, damaged_inside))
        contents[victim] = damage(contents[victim], rng, other)
        for path, content in contents.items():
            target = folder / path.relative_to(self.sources / "good" / slug(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return folder


def slug(name: str) -> str:
    """The name of a reader's folder."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def good_files(sources: Path, name: str) -> list[Path]:
    """The files of a reader's good source."""
    return sorted(path for path in (sources / "good" / slug(name)).rglob("*") if path.is_file())


def make_sources(sources: Path, names: list[str]) -> None:
    """Write a good source for each reader, and see that it reads."""
    for name in names:
        folder = sources / "good" / slug(name)
        folder.mkdir(parents=True)
        READERS[name].make(folder)
        READERS[name].read(folder)


def outcomes(names: list[str], files: int, attempt: Attempt) -> Iterator[tuple[str, int, str]]:
    """The reader, the number and the outcome of every file."""
    items = [(names[i % len(names)], i // len(names)) for i in range(files)]
    for start, results in guarded_map(attempt, items, num_workers=1, time_limit=TIME_LIMIT, chunk_size=64):
        for item, outcome in zip(items[start:], results):
            yield (*item, f"the process {outcome}" if isinstance(outcome, Failure) else outcome)


def main() -> int:
    """Parse, fuzz, print the table; the number of readers' faults decides the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20_000, help="damaged files, over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one reader; its name, or a part of it")
    parser.add_argument("--number", type=int, help="with --only: repeat this file and show what it raises")
    options = parser.parse_args()
    exact = [options.only] if options.only in READERS else list(READERS)
    names = [n for n in exact if installed(READERS[n]) and (options.only or "") in n]
    missing = sorted({reader.package for reader in READERS.values() if not installed(reader)})
    if missing:
        print(f"left out, for they are not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        sources = Path(temporary)
        make_sources(sources, names)
        attempt = Attempt(sources, options.seed)
        if options.number is not None:
            READERS[names[0]].read(attempt.place((names[0], options.number)))
            return 0
        return report(outcomes(names, options.files, attempt), names)


def report(results: Iterator[tuple[str, int, str]], names: list[str]) -> int:
    """Print how often each reader read and refused, and every other outcome once with a file that has it."""
    start = time.monotonic()
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    faults: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name, number, outcome in results:
        kind = outcome if outcome in ("read", "refused") else "fault"
        counts[name][kind] += 1
        if kind == "fault":
            where, _, said = outcome.partition(": ")
            faults.setdefault((name, where), []).append((number, " ".join(said.split())))
    rows = [(name, *(str(counts[name][kind]) for kind in ("read", "refused", "fault"))) for name in names]
    totals = [sum(count[kind] for count in counts.values()) for kind in ("read", "refused", "fault")]
    title = f"{sum(totals)} damaged files in {time.monotonic() - start:.0f} s"
    print_table(title, ("reader", "read", "refused", "fault"), [*rows, ("all", *map(str, totals))])
    for (name, where), found in sorted(faults.items()):
        number, said = found[0]
        print(f"{len(found)} x {name} (--only {name!r} --number {number}): {where}: {said}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
