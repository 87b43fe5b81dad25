"""The scripts of links, on a small folder with Decagon's columns."""

import csv
import gzip
import json
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.data.links import LinkData

SCRIPTS = Path(__file__).parent.parent / "scripts"
DRUGS = [f"CID{i:09}" for i in range(36)]
SMILES = [ring + "C" * n for ring in ("c1ccccc1", "C1CCNCC1", "c1ccsc1") for n in range(12)]


@pytest.fixture(scope="module")
def decagon(tmp_path_factory):
    """36 drugs; a side effect mostly joins drugs whose numbers have its sum of remainders."""
    folder = tmp_path_factory.mktemp("decagon")
    rng = np.random.default_rng(0)

    def write(name, header, rows):
        with gzip.open(folder / f"{name}.csv.gz", "wt", newline="") as stream:
            csv.writer(stream).writerows([header, *rows])

    combo = [
        (DRUGS[i], DRUGS[j], f"C{e}", f"Effect {e}")
        for i, j in combinations(range(36), 2)
        for e in range(3)
        if (i + j) % 3 == e or rng.random() < 0.1
    ]
    header = ("STITCH 1", "STITCH 2", "Polypharmacy Side Effect", "Side Effect Name")
    write("bio-decagon-combo", header, combo)
    write("bio-decagon-ppi", ("Gene 1", "Gene 2"), [(g, g + 1) for g in range(100, 139)])
    targets = [(DRUGS[i], 100 + g) for i in range(36) for g in range(40) if (i + g) % 3 == 0]
    write("bio-decagon-targets", ("STITCH", "Gene"), [row for row in targets if rng.random() < 0.7])
    write("drug-smiles", ("STITCH", "smiles"), list(zip(DRUGS, SMILES)))
    return folder


@pytest.fixture
def script(monkeypatch, capsys):
    """Run a script of this process's own interpreter with arguments; returns what it printed."""
    for folder in (SCRIPTS / "benchmarks", SCRIPTS):
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("COLUMNS", "200")  # a row of a table is a line

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        __import__(name).main()
        return capsys.readouterr().out

    return run


def test_baselines_are_searched_on_validation_and_tested_once(script, decagon, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import compare_links

    small = [compare_links.Setting(8, 1e-2, 0.0, 16), compare_links.Setting(8, 1e-5, 0.0, 16)]
    models = {name: replace(model, settings=small) for name, model in compare_links.MODELS.items()}
    models |= {
        name: replace(models[name], settings=small[:1]) for name in ("evidence alone", "decoder alone")
    }
    monkeypatch.setattr(compare_links, "MODELS", models)
    names = ["SimplE", "R-GCN", "evidence alone"]
    arguments = [decagon, "--output", tmp_path / "c.json", "--models", ",".join(names), "--min-links", 1]
    arguments += ["--search-epochs", 2, "--epochs", 3, "--epoch-fraction", 1, "--ranked", 10]
    printed = script("compare_links", *arguments)
    cells = json.loads((tmp_path / "c.json").read_text())
    tested = {cell["model"]: cell for cell in cells if "test" in cell}
    assert list(tested) == names and all(name in printed for name in names)
    for name in names[:2]:
        search = [cell for cell in cells if cell["model"] == name and "test" not in cell]
        best = max(search, key=lambda cell: cell["val"][-1]["median_auroc"])
        assert len(search) == 2 and tested[name]["setting"] == best["setting"] and tested[name]["epochs"] == 3
    assert tested["evidence alone"]["epochs"] == 4 and len(cells) == 7
    assert all(0 < cell["test"]["mrr"] <= 1 for cell in tested.values())
    script("compare_links", *arguments)  # all is done
    assert json.loads((tmp_path / "c.json").read_text()) == cells


def test_unseen_drugs_are_told_by_their_molecules(script, decagon, tmp_path):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    from test_embed import export

    from encoders.graph import GraphEncoder

    features = {"node_features": "atoms"}
    runs = [
        export(tmp_path / name, GraphEncoder, "contrastive.data.molecules.MoleculeData", **features)
        for name in ("run", "further")
    ]
    arguments = [decagon, "--encoder", runs[0], "--further", runs[1], "--output", tmp_path / "u.json"]
    arguments += ["--splits", 2, "--epochs", 2, "--batch-size", 16, "--min-links", 1]
    printed = script("unseen_drugs", *arguments)
    cells = json.loads((tmp_path / "u.json").read_text())
    by = {(cell["features"], cell["split"]): cell["median_auroc"] for cell in cells}
    assert len(by) == 10 and all(0 <= value <= 1 for value in by.values())
    assert by["pretrained", 0] == by["further", 0]  # the same export
    mean = np.mean([by["pretrained", s] - by["morgan", s] for s in (0, 1)])
    assert f"{mean:+.3f} [" in next(line for line in printed.splitlines() if "pretrained − morgan" in line)
    script("unseen_drugs", *arguments)
    assert json.loads((tmp_path / "u.json").read_text()) == cells


def test_popularity_recommends_what_training_has_most_of(script, decagon, tmp_path):
    source = decagon / "bio-decagon-targets.csv.gz"
    script("recommend", source, "--batch-size", 8, "--output", tmp_path / "r.json")
    rows = {row["model"]: row for row in json.loads((tmp_path / "r.json").read_text())}
    assert len(rows) == 5 and all(0 <= row["ndcg@10"] <= 1 for row in rows.values())
    data = LinkData(str(source), seed=0)
    data.setup()
    train, known, test = data.split.train.tolist(), set(), data.split.test.positive.tolist()
    known = {(u, v) for u, _, v in train + data.split.val.positive.tolist()}
    items = sorted({v for _, _, v in data.split.links.triples.tolist()})
    count = {v: sum(row[2] == v for row in train) for v in items}
    hits = []  # where of equally popular items the relevant ones are last, and first
    for user in sorted({u for u, _, _ in test}):
        left = [v for v in items if (user, v) not in known]
        for_user = [
            sorted(left, key=lambda v: (-count[v], sign * ([user, 0, v] in test)))[:10] for sign in (1, -1)
        ]
        hits.append([any([user, 0, v] in test for v in best) for best in for_user])
    worst, best = np.mean(hits, axis=0)
    assert worst <= rows["popularity"]["hits@10"] <= best


def test_the_figures_numbers_are_counts(script, decagon, tmp_path):
    result = json.loads(script("explore_decagon", decagon, "--output", tmp_path))
    with gzip.open(decagon / "bio-decagon-targets.csv.gz", "rt") as stream:
        targets = {}
        for row in csv.DictReader(stream):
            targets.setdefault(row["STITCH"], set()).add(row["Gene"])
    with gzip.open(decagon / "bio-decagon-combo.csv.gz", "rt") as stream:
        rows = list(csv.DictReader(stream))
    pairs = {frozenset((row["STITCH 1"], row["STITCH 2"])) for row in rows}
    jaccard = {
        frozenset((a, b)): len(targets[a] & targets[b]) / len(targets[a] | targets[b])
        for a, b in combinations(targets, 2)
    }
    found = result["targets"]
    assert found["mean_jaccard_random"] == pytest.approx(np.mean(list(jaccard.values())))
    linked = [value for pair, value in jaccard.items() if pair in pairs]
    assert found["mean_jaccard_with_side_effects"] == pytest.approx(np.mean(linked))
    assert sum(result["frequencies"]["most_frequent"].values()) == len(rows)
    for name in ("targets", "frequencies", "cooccurrence"):
        assert min(Image.open(tmp_path / f"decagon_{name}.png").size) > 200


def test_the_benchmark_of_links_measures_equal_layers(script, decagon, tmp_path):
    pytest.importorskip("torch_geometric", reason="needs the extra benchmark")
    options = ["--relations", 2, "--min-links", 1, "--width", 8, "--bases", 2, "--repeats", 1]
    printed = script("links", decagon, *options, "--output", tmp_path / "b.json")  # compares the outputs
    result = json.loads((tmp_path / "b.json").read_text())
    assert json.loads(printed) == result
    assert result["edge_types"] == 2 + 1 + 2  # side effects, pairs of proteins, targets in both directions
    assert result["seconds"].keys() == result["peak_mb"].keys() == {"ours", "RGCNConv"}
    assert result["times_faster"] == result["seconds"]["RGCNConv"] / result["seconds"]["ours"]
    alone = json.loads(script("links", decagon, *options, "--no-peer"))
    assert alone["seconds"].keys() == {"ours"} and "times_faster" not in alone


def test_the_benchmark_of_links_tells_other_outputs(script, decagon, monkeypatch):
    pytest.importorskip("torch_geometric", reason="needs the extra benchmark")
    options = ["--relations", 2, "--min-links", 1, "--width", 8, "--bases", 2, "--repeats", 1]
    script("links", decagon, *options, "--no-peer")
    benchmark = sys.modules["links"]
    peer = benchmark._peer

    def other(*arguments):
        layer = peer(*arguments)
        layer.bias.data += 1
        return layer

    monkeypatch.setattr(benchmark, "_peer", other)
    with pytest.raises(AssertionError, match="not close"):
        script("links", decagon, *options)
