"""Reading molecules: tables and lists, what does not parse, the cache, against RDKit itself."""

import gzip
import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrastive.data.descriptors import read_descriptors
from contrastive.data.molecules import MoleculeData, read_molecules
from contrastive.data.splits import scaffold, scaffold_split
from contrastive.data.tables import read_smiles
from contrastive.errors import ContrastiveError
from contrastive.evaluation.leaks import canonical
from encoders.graph_batch import GraphBatch

pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")

GOOD = ["CCO", "c1ccccc1", "C[C@H](N)C(=O)O", "[Na+].[Cl-]", "F/C=C/F", "C"]


@pytest.fixture
def read(tmp_path):
    """Read what is written to a file, with a cache of its own."""

    def run(text, name="molecules.csv", **options):
        file = tmp_path / name
        file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return read_molecules(file, **{"cache_dir": tmp_path / "cache", "num_workers": 1} | options)

    return run


def same(one: GraphBatch, two: GraphBatch) -> bool:
    return all(torch.equal(getattr(one, k), getattr(two, k)) for k in ("src", "dst", "x", "edge_attr", "ptr"))


@pytest.mark.parametrize("name", ["m.smi", "m.smi.gz", "m.txt"])
def test_a_list_gives_what_from_smiles_gives(read, name):
    data = read("smiles name\n" + "".join(f"{s}\tmolecule {i}\n" for i, s in enumerate(GOOD)), name)
    assert data.smiles == GOOD
    batch = data.__getitems__(list(range(len(GOOD))))
    assert batch.input.x.dtype == batch.input.edge_attr.dtype == torch.int64
    assert data.graphs.x.dtype == data.graphs.edge_attr.dtype == torch.uint8
    assert same(batch.input, GraphBatch.from_smiles(GOOD))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_the_lines_of_a_list_end_as_any_system_ends_them(read, ending):
    assert read(ending.join(["CCO a", "CCN b", "CCC"]), "m.smi").smiles == ["CCO", "CCN", "CCC"]


def test_rdkits_own_file_reads_as_rdkit_reads_it(tmp_path):
    from rdkit import RDConfig
    from rdkit.Chem import SmilesMolSupplier

    file = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    head = tmp_path / "head.smi"
    head.write_text("\n".join(file.read_text().splitlines()[:300]) + "\n")
    data = read_molecules(head, cache_dir=tmp_path)
    molecules = [m for m in SmilesMolSupplier(str(head), delimiter="\t", titleLine=False) if m is not None]
    assert data.graphs.nodes_per_graph.tolist() == [m.GetNumAtoms() for m in molecules]
    assert data.graphs.edge_ptr.diff().tolist() == [2 * m.GetNumBonds() for m in molecules]


def test_a_table_gives_targets_with_nan_for_blanks(read):
    data = read("name,SMILES,a,b\nx,CCO,1,\ny,c1ccccc1,0,2.5\n", targets=["b", "a"])
    assert data.classes == ["b", "a"] and data.labels.dtype == torch.float32
    np.testing.assert_array_equal(data.labels.numpy(), [[math.nan, 1], [2.5, 0]])
    part = data.subset(np.array([1]))
    assert part.smiles == ["c1ccccc1"] and part.labels.tolist() == [[2.5, 0]]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_table_reads_as_pandas_reads_it(tmp_path, separator, ending):
    pandas = pytest.importorskip("pandas")
    rows = [
        ("smiles", "the name", "active"),
        ("CCO", '"a, ""b""; c"', "yes"),
        ("CC", "d", "NA"),
        ("C", "", "FALSE"),
    ]
    file = tmp_path / "a folder" / "m.csv"
    file.parent.mkdir()
    file.write_bytes(
        ending.join(separator.join(row) for row in [*rows, ("C=O", "e", "1")]).encode("utf-8-sig")
    )
    frame = pandas.read_csv(file, sep=separator, true_values=["yes"])
    table = read_smiles(file, targets=["active"])
    assert table.smiles == frame.smiles.tolist()
    expected = frame.active.map({"yes": 1.0, "FALSE": 0.0, "1": 1.0}).to_numpy(np.float32)
    np.testing.assert_array_equal(table.targets[:, 0], expected)


def test_a_named_column_is_found_behind_semicolons(tmp_path):
    (tmp_path / "m.csv").write_text("id;canonical\n1;CC\n")
    assert read_smiles(tmp_path / "m.csv", smiles_column="canonical").smiles == ["CC"]


def test_what_does_not_parse_is_left_out_counted_and_named(read, tmp_path, caplog):
    text = "smiles,y\nCCO,1\nC(,0\n,0\nC(C)(C)(C)(C)C,1\nCC,0\n"
    with caplog.at_level(logging.WARNING, "contrastive"):
        data = read(text, targets=["y"])
    assert data.smiles == ["CCO", "CC"] and data.labels.flatten().tolist() == [1, 0]
    assert "skipped 3 of 5 molecules" in caplog.text
    report = next((tmp_path / "cache").glob("molecules-*.skipped.tsv"))
    lines = [line.split("\t") for line in report.read_text().splitlines()]
    assert [(line[0], line[1]) for line in lines[1:]] == [("3", "C("), ("4", ""), ("5", "C(C)(C)(C)(C)C")]
    assert lines[1][2] == "not a SMILES" and lines[2][2] == "it has no atoms" and "valence" in lines[3][2]


def test_a_molecule_that_takes_too_long_is_left_out(read, monkeypatch):
    import contrastive.data.molecule_features as module

    real = module.featurize

    def slow(chem, smiles, place=0):
        if smiles == "CCCC":
            while True:
                pass
        return real(chem, smiles, place)

    monkeypatch.setattr(module, "featurize", slow)  # the workers are forked, so they have it too
    data = read("CCO\nCCCC\nCC\n", "m.smi", time_limit=1.0)
    assert data.smiles == ["CCO", "CC"]


@pytest.mark.parametrize(
    "text,name,options,message",
    [
        ("C(\nC1\n", "m.smi", {}, "no molecule that RDKit can read; the first of 2: not a SMILES"),
        ("", "m.smi", {}, "no molecule"),
        ("name,smiles\n2,4-dione,CCO\n", "m.csv", {}, "line 2: 3 fields, but the header has 2; put a field"),
        ('smiles,name\nCCO,"a\nCCN,b\n', "m.csv", {}, "line 3: unexpected end of data; a field that begins"),
        (
            "smiles,y\nCC,1\n",
            "m.csv",
            {"targets": ["z"]},
            "0 columns named 'z', expected 1. Its columns: smiles, y",
        ),
        ("smiles,y\nCC,1\nCCC,high\n", "m.csv", {"targets": ["y"]}, "line 3: y is 'high', expected a number"),
        (
            "smiles,Class\nCC,1\n",
            "m.csv",
            {"targets": ["class"]},
            "named 'class', expected 1; the nearest: Class.",
        ),
        ("a,b\nCC,1\n", "m.csv", {}, "0 columns named smiles, expected 1; name it with smiles_column"),
        ("CC\n", "m.smi", {"targets": ["y"]}, "no named columns"),
        ("CC\n", "m.sdf", {}, "expected a .csv, .tsv, .smi or .txt"),
    ],
)
def test_errors_say_what_and_where(read, text, name, options, message):
    with pytest.raises(ContrastiveError, match=message):
        read(text, name, **options)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "cut.smi.gz").write_bytes(gzip.compress(b"CCO\n" * 1000)[:-9])
    (tmp_path / "binary.smi").write_bytes(b"\xff\xfe\x00")
    for name in ("cut.smi.gz", "binary.smi", "missing.csv"):
        with pytest.raises(ContrastiveError, match=name.replace(".", r"\.")):
            read_smiles(tmp_path / name)


def test_the_cache_is_read_and_a_damaged_one_is_replaced(read, tmp_path, caplog):
    text = "\n".join(GOOD) + "\nC(\n"
    first = read(text, "m.smi")
    file = next((tmp_path / "cache").glob("*.safetensors"))
    written = file.stat().st_mtime_ns
    assert same(read(text, "m.smi").graphs, first.graphs) and file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:100])
    again = read(text, "m.smi")
    assert same(again.graphs, first.graphs) and "computing anew" in caplog.text
    read("CCO\n", "m.smi")  # other molecules, another file
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_an_error(read, tmp_path):
    tmp_path.joinpath("locked").mkdir(mode=0o500)
    with pytest.raises(ContrastiveError, match="cannot write .*cache_dir"):
        read("CCO\n", "m.smi", cache_dir=tmp_path / "locked" / "cache")


def test_a_cache_folder_that_is_a_file_is_an_error(read, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ContrastiveError, match="cannot write .*cache_dir"):
        read("CCO\n", "m.smi", cache_dir=tmp_path / "file")


ALPHABET = "CNOcno()[]=#123+-@/\\.%lB rHS\t"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.text(alphabet=ALPHABET, max_size=12), max_size=12))
def test_any_list_gives_a_molecule_or_a_report_for_each_line(read, tmp_path, lines):
    from rdkit import Chem

    tokens = [
        line.split(maxsplit=1)[0] for line in lines if line.split() and not line.split()[0].startswith("#")
    ]
    expected = [t for t in tokens if (m := Chem.MolFromSmiles(t)) is not None and m.GetNumAtoms()]
    try:
        data = read("\n".join(lines), "any.smi")
    except ContrastiveError as error:
        assert not expected and "no molecule" in str(error)
        return
    assert data.smiles == expected
    data.__getitems__(list(range(len(data))))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(GOOD), st.one_of(st.none(), st.floats(-1e6, 1e6, width=32))), min_size=1
    ),
    quote=st.booleans(),
)
def test_any_table_round_trips(tmp_path, rows, quote):
    mark = '"' if quote else ""
    body = "".join(f"{mark}{s}{mark},{'' if y is None else repr(y)}\r\n" for s, y in rows)
    file = tmp_path / "t.csv"
    file.write_text("smiles,y\r\n" + body, newline="")
    table = read_smiles(file, targets=["y"])
    expected = [[math.nan if y is None else y] for _, y in rows]
    assert table.smiles == [s for s, _ in rows] and table.lines == list(range(2, len(rows) + 2))
    np.testing.assert_array_equal(table.targets, np.array(expected, np.float32))


def test_the_data_module_refuses_a_test_split_and_takes_the_rest(tmp_path):
    (tmp_path / "m.smi").write_text("CCO\n" * 10)
    data = MoleculeData(str(tmp_path / "m.smi"), batch_size=4, val_fraction=0.2, cache_dir=str(tmp_path))
    data.setup()
    assert data.val is None and data.train.smiles == ["CCO"] * 10  # no label to evaluate by
    with pytest.raises(ContrastiveError, match="no test split"):
        data.read("test")


MAPPED = [
    ("[CH3:1][CH2:2][OH:3]", "CCO"),
    (r"[CH3:1]/[C:2]([CH2:4][CH3:3])=[N:5]\[OH:6]", r"C/C(CC)=N\O"),
    ("[H:9][CH2:1][c:2]1[cH:3][cH:4][n:5][cH:6][cH:7]1", "Cc1ccncc1"),
    ("[CH3:2][CH:1]([CH3:3])[Cl:4]", "CC(C)Cl"),
]


@pytest.mark.parametrize("mapped,plain", MAPPED)
def test_the_numbers_that_reactions_give_atoms_change_nothing(tmp_path, mapped, plain):
    assert same(GraphBatch.from_smiles(mapped), GraphBatch.from_smiles(plain))
    assert scaffold(mapped) == scaffold(plain) and canonical(mapped) == canonical(plain)
    one, two = (read_descriptors([s], cache_dir=tmp_path / s[:2], num_workers=1) for s in (mapped, plain))
    assert torch.equal(one.nan_to_num(), two.nan_to_num())


def test_bbbp_has_the_published_size_and_parts(moleculenet, tmp_path):
    data = read_molecules(moleculenet / "bbbp.csv", targets=["p_np"], cache_dir=tmp_path)
    assert len(data) == 2039  # Hu et al. 2020 (arXiv 1905.12265), as are the molecules that do not parse: 11
    parts = scaffold_split(data.smiles)
    assert [len(part) for part in parts] == [1631, 204, 204]
