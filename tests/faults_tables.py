# ruff: noqa: E501  messages are written whole, a fault a line
"""Molecules with something wrong, and what is printed of each."""

import gzip

from fault_cases import Fault

from contrastive.data.molecules import read_molecules


def table(text, name="m.csv", **options):
    def meet(folder, caplog=None):
        content = text.encode() if isinstance(text, str) else text
        (folder / name).write_bytes(content)
        options.setdefault("num_workers", 1)
        data = read_molecules(folder / name, cache_dir=folder / "cache", **options)
        (skipped,) = (folder / "cache").glob("*.skipped.tsv")
        return "; ".join(line.replace("\t", " ") for line in skipped.read_text().splitlines()[1:]) + (
            f"; {len(data)} read"
        )

    return meet


def sheet(side):
    """A square of side² carbons with all its rings, over which RDKit takes the fifth power of the side."""
    order = [(r, c if r % 2 == 0 else side - 1 - c) for r in range(side) for c in range(side)]
    place = {cell: i for i, cell in enumerate(order)}
    closures: dict[tuple[int, int], int] = {}
    text = ""
    for i, (r, c) in enumerate(order):
        text += "C"
        for other in ((r + 1, c), (r - 1, c)):
            if other in place and abs(place[other] - i) != 1:
                pair = (min(i, place[other]), max(i, place[other]))
                text += f"%({closures.setdefault(pair, len(closures) + 1)})"
    return text


def slow(folder):
    (folder / "m.smi").write_text(f"CCO\n{sheet(70)}\nCC\n")
    data = read_molecules(folder / "m.smi", cache_dir=folder / "cache", time_limit=1.0, num_workers=1)
    (skipped,) = (folder / "cache").glob("*.skipped.tsv")
    reason = skipped.read_text().splitlines()[1].split("\t")[2]
    return f"{reason}; {len(data)} read"


def long(folder):
    (folder / "m.smi").write_text("C" * 1000 + "\n")
    graphs = read_molecules(folder / "m.smi", cache_dir=folder / "cache", num_workers=1).graphs
    return f"read: {graphs.num_nodes} atoms, {graphs.num_edges // 2} bonds"


FAULTS = [
    Fault("a table without a column smiles", table("a,b\nCC,1\n"), "…/m.csv has 0 columns named smiles, expected 1; name it with smiles_column. Its columns: a, b"),
    Fault("a table without the column of the targets", table("smiles,y\nCC,1\n", targets=["z"]), "…/m.csv has 0 columns named 'z', expected 1. Its columns: smiles, y"),
    Fault("a table in Latin-1", table("smiles,n\nCC,\xe9\n".encode("latin-1")), "…/m.csv is not UTF-8 (byte 12); save it as UTF-8"),
    Fault("a table of no bytes", table(""), "…/m.csv is empty; give a table with a header"),
    Fault("a table as Excel writes it in Europe, with semicolons and yes and no", table("name;smiles;y\nx;C(;yes\ny;CC;no\n", targets=["y"]), "2 C( not a SMILES; 1 read"),
    Fault("decimals with a comma", table("smiles;y\nCC;1,5\n", targets=["y"]), "…/m.csv, line 2: y is '1,5', expected a number or a blank; write classes as 0 and 1, and decimals with a point"),
    Fault("a gzipped list that is cut short", table(gzip.compress(b"CCO\n" * 99, mtime=0)[:-9], "m.smi.gz"), "…/m.smi.gz cannot be read: Compressed file ended before the end-of-stream marker was reached"),
    Fault("a target that is a word", table("smiles,y\nCC,high\n", targets=["y"]), "…/m.csv, line 2: y is 'high', expected a number or a blank; write classes as 0 and 1, and decimals with a point"),
    Fault("a target that is infinite", table("smiles,y\nCC,1e99\n", targets=["y"]), "…/m.csv, line 2: y is '1e99', expected a number or a blank; write classes as 0 and 1, and decimals with a point"),
    Fault("SMILES that do not parse", table("C(\nC1CC\n\nC(C)(C)(C)(C)C\nCC\n", "m.smi"), "1 C( not a SMILES; 2 C1CC not a SMILES; 4 C(C)(C)(C)(C)C Explicit valence for atom # 0 C, 5, is greater than permitted; 1 read"),
    Fault("a file none of whose SMILES parses", table("C(\n", "m.smi"), "…/m.smi holds no molecule that RDKit can read; the first of 1: not a SMILES"),
    Fault("a SMILES that takes RDKit minutes", slow, "RDKit took too long (limit 1 s); 2 read"),
    Fault("a SMILES of 1,000 atoms", long, "read: 1000 atoms, 999 bonds"),
]  # fmt: skip
FAULTS = [fault._replace(package="rdkit") for fault in FAULTS]
