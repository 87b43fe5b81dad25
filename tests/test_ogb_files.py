"""Sets in the published layout of the Open Graph Benchmark, written by hand from its description."""

import gzip

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrastive.cli import main
from contrastive.data.graphs import GraphData, read_graphs
from contrastive.data.node_files import read_nodes
from contrastive.errors import ContrastiveError
from contrastive.evaluation.protocol import Protocol
from contrastive.evaluation.tasks import read_task
from contrastive.extractor import FeatureExtractor
from contrastive.features import FrozenEncoder
from contrastive.items import read_items
from encoders.graph import GraphEncoder

MOLECULES = {  # a chain of three atoms, a bond, a single atom, a bond
    "raw/edge": "0,1\n1,2\n0,1\n1,0\n",
    "raw/num-node-list": "3\n2\n1\n2\n",
    "raw/num-edge-list": "2\n1\n0\n1\n",
    "raw/node-feat": "5,0\n6,0\n7,1\n5,0\n5,1\n0,0\n7,0\n7,0\n",
    "raw/edge-feat": "0,1\n1,0\n3,0\n2,2\n",
    "raw/graph-label": "0\n1\n0\n1\n",
    "split/scaffold/train": "0\n3\n",
    "split/scaffold/valid": "2\n",
    "split/scaffold/test": "1\n",
}
CITATIONS = {
    "raw/edge": "0,1\n2,1\n3,0\n1,0\n",
    "raw/num-node-list": "4\n",
    "raw/num-edge-list": "4\n",
    "raw/node-feat": "0.5,-1\n1,2\n3,0\n0.25,1e-1\n",
    "raw/node-label": "4\n0\n4\n2\n",
    "split/time/train": "3\n0\n",
    "split/time/valid": "1\n",
    "split/time/test": "2\n",
}


def write(folder, tables):
    for name, text in tables.items():
        path = folder / f"{name}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()))
    return folder.parent


def molecules(tmp_path, **changed):
    return f"ogb:ogbg-molhiv:{write(tmp_path / 'ogbg_molhiv', MOLECULES | changed)}"


def test_molecules_with_their_bonds_in_both_directions(tmp_path):
    dataset = read_graphs(molecules(tmp_path))
    graphs = dataset.graphs
    assert graphs.nodes_per_graph.tolist() == [3, 2, 1, 2]
    first, second = graphs[0], graphs[1]
    edges = sorted(zip(first.src.tolist(), first.dst.tolist(), first.edge_attr.tolist()))
    assert edges == [(0, 1, [1, 2]), (1, 0, [1, 2]), (1, 2, [2, 1]), (2, 1, [2, 1])]
    assert first.x.tolist() == [[6, 1], [7, 1], [8, 2]]  # 0 is kept for masks
    assert second.edge_attr.tolist() == [[4, 1], [4, 1]]
    assert dataset.labels.tolist() == [0, 1, 0, 1] and dataset.classes == ["0", "1"]


def test_training_and_test_graphs_are_the_published_ones(tmp_path):
    data = GraphData(molecules(tmp_path), batch_size=2)
    train, test = data.read("train"), data.read("test")
    assert train.graphs.nodes_per_graph.tolist() == [3, 2] and train.labels.tolist() == [0, 1]
    assert test.graphs.nodes_per_graph.tolist() == [2] and test.labels.tolist() == [1]
    whole = {name: text for name, text in MOLECULES.items() if not name.startswith("split")}
    source = f"ogb:ogbg-molhiv:{write(tmp_path / 'whole' / 'hiv', whole) / 'hiv'}"  # as the .zip unpacks
    assert len(GraphData(source).read("train")) == 4


def test_an_encoder_of_other_numbers_takes_no_smiles(tmp_path):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    data = {"class_path": "contrastive.data.graphs.GraphData", "init_args": {"source": molecules(tmp_path)}}
    network = GraphEncoder(node_features=[120, 6, 13, 13, 11, 7, 7, 3, 3], num_hidden=8)
    encoder = FrozenEncoder(network, torch.nn.Identity(), {"data": data})
    (tmp_path / "m.smi").write_text("CCO\n")
    with pytest.raises(ContrastiveError, match="trained on ogb:ogbg-molhiv.*pretrain on SMILES"):
        read_items(encoder, str(tmp_path / "m.smi"))
    with pytest.raises(ContrastiveError, match="trained on ogb:ogbg-molhiv.*pretrain on SMILES"):
        FeatureExtractor(encoder).transform(["CCO"])


def test_a_probe_takes_the_published_split(tmp_path):
    config = {"data": {"class_path": "contrastive.data.graphs.GraphData"}}
    encoder = FrozenEncoder(GraphEncoder(node_features=[20, 20], num_hidden=8), torch.nn.Identity(), config)
    task = read_task(encoder, Protocol(molecules(tmp_path)))
    assert [part.tolist() for part in task.draws[0]] == [[0, 3], [2], [1]] and len(task.draws) == 1
    assert task.rule == "the published split"


def test_targets_with_blanks_and_graphs_without_features(tmp_path):
    tables = {name: text for name, text in MOLECULES.items() if "feat" not in name}
    tables["raw/graph-label"] = "0.0,,1.0\n,,\n1,0,\n0,nan,1.5\n"
    dataset = read_graphs(f"ogb:ogbg-moltox21:{write(tmp_path / 'ogbg_moltox21', tables)}", max_degree=4)
    nan = float("nan")
    expected = torch.tensor([[0, nan, 1], [nan, nan, nan], [1, 0, nan], [0, nan, 1.5]])
    torch.testing.assert_close(dataset.labels, expected, equal_nan=True)
    assert dataset.graphs.x.argmax(1).tolist() == [1, 2, 1, 1, 1, 0, 1, 1]  # degrees


def test_directed_graphs_stay_directed(tmp_path):
    tables = MOLECULES | {"raw/graph-label": "1\n2\n3\n4\n"}
    graphs = read_graphs(f"ogb:ogbg-code2:{write(tmp_path / 'ogbg_code2', tables)}").graphs
    assert graphs.num_edges == 4


def test_a_citation_graph_with_its_split(tmp_path):
    source = f"ogb:ogbn-arxiv:{write(tmp_path / 'ogbn_arxiv', CITATIONS)}"
    dataset = read_nodes(source, normalize_features=False)
    edges = set(zip(dataset.graph.src.tolist(), dataset.graph.dst.tolist()))
    assert edges == {(0, 1), (1, 0), (1, 2), (2, 1), (0, 3), (3, 0)}
    torch.testing.assert_close(dataset.graph.x, torch.tensor([[0.5, -1], [1, 2], [3, 0], [0.25, 0.1]]))
    assert dataset.labels.tolist() == [4, 0, 4, 2]
    assert [part.tolist() for part in dataset.split] == [[0, 3], [1], [2]]


def test_several_targets_a_node_are_labels(tmp_path):
    tables = CITATIONS | {"raw/node-label": "0,1\n1,1\n0,0\n1,0\n"}
    del tables["raw/node-feat"]
    dataset = read_nodes(f"ogb:ogbn-proteins:{write(tmp_path / 'ogbn_proteins', tables)}")
    assert dataset.labels.tolist() == [[0, 1], [1, 1], [0, 0], [1, 0]] and dataset.graph.num_nodes == 4


def test_the_root_is_where_ogb_puts_its_sets(tmp_path, monkeypatch):
    write(tmp_path / "dataset" / "ogbg_molhiv", MOLECULES)
    monkeypatch.chdir(tmp_path)
    assert len(read_graphs("ogb:ogbg-molhiv")) == 4


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"raw/edge": "0,1\n1,2\n0,1\n"}, "num-edge-list.csv.gz says 4 edges in 4 graphs"),
        ({"raw/num-node-list": "3\n2\n1\n"}, "num-node-list.csv.gz 3 lines"),
        ({"raw/edge": "0,1\n1,2\n0,2\n1,0\n"}, r"edge.csv.gz, line 3: \[0 2\] is no edge of its graph"),
        ({"raw/edge": "0,1\n1,x\n0,1\n1,0\n"}, "edge.csv.gz cannot be read"),
        ({"raw/edge": "0,1\n1,2.5\n0,1\n1,0\n"}, "edge.csv.gz cannot be read: expected whole numbers"),
        ({"raw/num-edge-list": "3\n2\n-1\n0\n"}, "says 4 edges in 4 graphs"),
        ({"raw/edge-feat": "0,1\n1,0\n3,0\n2,-2\n"}, "ogbg-molhiv.*: edge_attr has in row 3"),
        ({"raw/node-feat": "5,0\n"}, "node-feat.csv.gz has 1 lines; the other tables ask for 8"),
        ({"raw/graph-label": "0\n1\n0\n"}, "graph-label.csv.gz has 3 lines; the other tables ask for 4"),
        ({"raw/node-feat": "5,0\n" * 7 + "5\n"}, "node-feat.csv.gz cannot be read"),
        ({"split/scaffold/test": "4\n"}, "test.csv.gz names 4, but there are 4"),
        ({"split/random/test": "1\n"}, "holds several splits, random, scaffold"),
        ({"split/scaffold/valid": ""}, "valid.csv.gz"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_what_is_wrong_with_a_table_is_said(changed, message, tmp_path):
    with pytest.raises(ContrastiveError, match=message):
        read_graphs(molecules(tmp_path, **changed))


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ContrastiveError, match="no raw/edge.csv.gz in .*ogbg_molhiv.*download ogbg-molhiv"):
        read_graphs(f"ogb:ogbg-molhiv:{tmp_path}")
    with pytest.raises(ContrastiveError, match="download ogbn-arxiv"):
        read_nodes(f"ogb:ogbn-arxiv:{tmp_path}")
    source = molecules(tmp_path)
    (tmp_path / "ogbg_molhiv" / "raw" / "num-node-list.csv.gz").write_bytes(b"not gzipped")
    with pytest.raises(ContrastiveError, match="num-node-list.csv.gz cannot be read"):
        read_graphs(source)


@given(st.sampled_from(sorted(MOLECULES)), st.binary(max_size=40))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")
def test_any_table_is_read_or_refused(tmp_path_factory, name, content):
    folder = tmp_path_factory.mktemp("ogb") / "ogbg_molhiv"
    root = write(folder, MOLECULES)
    (folder / f"{name}.csv.gz").write_bytes(gzip.compress(content))
    try:
        assert len(read_graphs(f"ogb:ogbg-molhiv:{root}")) >= 1
    except ContrastiveError as error:
        assert "csv.gz" in str(error)


@pytest.mark.parametrize("kind", ["graph", "node"])
def test_pretraining_by_the_recipes(kind, tmp_path):
    if kind == "graph":
        args = ["--config", "configs/graph/graphcl.yaml", "--data.source", molecules(tmp_path)]
        args += ["--model.encoder.node_features", "[9,3]", "--data.batch_size", "2"]
    else:
        root = write(tmp_path / "ogbn_arxiv", CITATIONS)
        args = ["--config", "configs/node/grace.yaml", "--data.source", f"ogb:ogbn-arxiv:{root}"]
        args += ["--model.encoder.node_features", "2", "--data.batch_size", "4"]
    args += ["--run_dir", str(tmp_path / "run"), "--wandb", "off", "--trainer.max_steps", "2"]
    args += ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    assert main(["pretrain", *args]) == 0
