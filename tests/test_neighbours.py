"""``contrastive neighbours``: against a plain search, and what the page holds."""

import base64
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image
from test_embed import export

from contrastive.cli import main
from contrastive.data.images import read_images
from contrastive.features import load_encoder
from contrastive.nearest import Query, nearest
from contrastive.neighbours import parse_names
from encoders.graph import GraphEncoder, NodeEncoder

pytestmark = pytest.mark.usefixtures("own_cache")


class Page(html.parser.HTMLParser):
    """The pictures of a page, and whatever it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.images, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        source = dict(attrs).get("src") or dict(attrs).get("href") or ""
        if source.startswith("data:image/png;base64,"):
            self.images.append(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        elif source:
            self.links.append(source)


def cosines(h, place):
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    return unit @ unit[place]


@pytest.mark.parametrize("index", ["sklearn", "faiss"])
def test_the_search_is_exact_and_leaves_the_query_out(index, digits_run):
    if index == "faiss":
        pytest.importorskip("faiss", reason="needs the extra: pip install contrastive-pretraining[faiss]")
    rng = np.random.default_rng(0)
    h = rng.normal(size=(200, 16)).astype(np.float32)
    h[7] = 2 * h[3]  # the same direction: the nearest of each other
    queries = [Query("3", 3), Query("50", 50)]
    found = nearest(load_encoder(digits_run), h, queries, k=5, index=index)
    for query, (places, similarity) in zip(queries, found):
        expected = cosines(h, query.place)
        expected[query.place] = -2
        assert places.tolist() == np.argsort(-expected)[:5].tolist()
        np.testing.assert_allclose(similarity, np.sort(expected)[::-1][:5], atol=1e-5)
    assert found[0][0][0] == 7 and found[0][1][0] == pytest.approx(1)
    assert len(nearest(load_encoder(digits_run), h[:3], [Query("0", 0)], k=10, index=index)[0][0]) == 2


def test_images_by_number_and_by_file(digits_run, tmp_path):
    data = read_images("digits", "all")  # numbered as embed writes them
    Image.fromarray(data.images[5, 0].numpy()).save(tmp_path / "five.png")
    out = tmp_path / "out"
    query = f"5,{tmp_path / 'five.png'}"
    assert main(["neighbours", str(digits_run), "--query", query, "--k", "4", "--output", str(out)]) == 0
    content = json.loads((out / "neighbours.json").read_text())
    by_number, by_file = content["rows"]
    assert by_number["place"] == 5 and by_file["place"] is None and content["num_items"] == len(data)
    assert by_file["neighbours"][0]["cosine"] == pytest.approx(1, abs=1e-4)  # the image itself
    assert by_file["neighbours"][0]["item"] == f"#5 · {int(data.labels[5])}"
    assert [n["item"] for n in by_number["neighbours"][:3]] == [n["item"] for n in by_file["neighbours"][1:]]
    expected = cosines(load_encoder(digits_run)(data.images).numpy(), 5)
    expected[5] = -2
    place = int(expected.argmax())
    assert by_number["neighbours"][0]["item"] == f"#{place} · {int(data.labels[place])}"
    page = Page((out / "neighbours.html").read_text())
    assert len(page.images) == 2 * 5 and not page.links  # all pictures are inside
    shown = np.asarray(page.images[1].convert("L"))
    np.testing.assert_array_equal(shown[::20, ::20], data.images[place, 0].numpy())
    assert min(Image.open(out / "neighbours.png").size) > 300


def test_molecules_by_smiles(tmp_path, capsys):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    run = export(
        tmp_path / "run", GraphEncoder, "contrastive.data.molecules.MoleculeData", node_features="atoms"
    )
    (tmp_path / "m.smi").write_text("CCO\nc1ccccc1\nCC(=O)O\nC1CCNCC1\nCCCO\n")
    options = ["--data", str(tmp_path / "m.smi"), "--k", "3", "--output", str(tmp_path / "out")]
    assert main(["neighbours", str(run), "--query", "OCC,[NH4+]", *options]) == 0
    rows = json.loads((tmp_path / "out" / "neighbours.json").read_text())["rows"]
    assert rows[0]["neighbours"][0]["item"] == "#0 · CCO"  # the same molecule, written otherwise
    assert rows[0]["neighbours"][0]["cosine"] == pytest.approx(1, abs=1e-4)
    images = Page((tmp_path / "out" / "neighbours.html").read_text()).images
    assert len(images) == 8 and all(np.asarray(image).std() > 5 for image in images)  # something is drawn
    assert main(["neighbours", str(run), "--query", "nonsense", *options]) == 1
    assert "'nonsense', is no SMILES" in capsys.readouterr().err


def test_nodes_are_a_table(tmp_path, capsys):
    run = export(
        tmp_path / "run", NodeEncoder, "contrastive.data.nodes.NodeData", node_features=4, layer="gcn"
    )
    rng = np.random.default_rng(0)
    arrays = {"edges": rng.integers(0, 20, (40, 2)), "x": rng.random((20, 4)), "y": np.arange(20) % 3}
    np.savez(tmp_path / "g.npz", **arrays)
    options = ["--data", str(tmp_path / "g.npz"), "--k", "2", "--output", str(tmp_path / "out")]
    assert main(["neighbours", str(run), "--query", "4", *options]) == 0
    assert "nearest to #4 · 1" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"neighbours.json"}
    assert main(["neighbours", str(run), "--query", "20", *options]) == 1
    assert "has 20 nodes, numbered from 0; there is no 20" in capsys.readouterr().err
    assert main(["neighbours", str(run), "--query", "x", *options]) == 1
    assert "is no number" in capsys.readouterr().err


def test_names_of_queries(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b.png").touch()
    assert parse_names("a,b.png") == ["a,b.png"]
    assert parse_names("1, 2") == ["1", "2"]
    assert parse_names('["C,", "3"]') == ["C,", "3"]
    assert parse_names("[Na+].[Cl-]") == ["[Na+].[Cl-]"]


def test_a_query_that_is_nothing_leaves_no_folder(digits_run, tmp_path, capsys):
    out = tmp_path / "a" / "b"
    assert main(["neighbours", str(digits_run), "--query", "99999", "--output", str(out)]) == 1
    assert "99999" in capsys.readouterr().err and not out.parent.exists()
