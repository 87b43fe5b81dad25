"""Lists and files of DGL's and PyG's own making, read by the data module."""

import pickle

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from augmentations.graph import EdgeDrop
from contrastive.cli import main
from contrastive.data.graph_features import refuse_other_features
from contrastive.data.graphs import GraphData, read_graphs
from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder
from contrastive.items import read_items
from contrastive.module import ContrastiveModule
from encoders.graph import GraphEncoder

dgl = pytest.importorskip("dgl")

EDGES = [([0, 1, 2], [1, 2, 0]), ([0], [1]), ([1, 0], [0, 1]), ([0, 2], [1, 1])]
SIZES = [3, 2, 2, 4]


def features(g):
    return torch.arange(2.0 * SIZES[g]).view(-1, 2) + g


def dgl_graphs():
    graphs = [dgl.graph(edges, num_nodes=size) for edges, size in zip(EDGES, SIZES)]
    for g, graph in enumerate(graphs):
        graph.ndata["feat"] = features(g)
    return graphs


def pyg_graphs(labels=(1, 0, 1, 1)):
    data = pytest.importorskip("torch_geometric.data")
    edges = [torch.tensor(ends) for ends in EDGES]
    graphs = [data.Data(x=features(g), edge_index=ends) for g, ends in enumerate(edges)]
    for graph, label in zip(graphs, labels or []):
        graph.y = torch.tensor([label])
    return graphs


def assert_is_the_list(dataset, labels):
    graphs = dataset.graphs
    assert graphs.nodes_per_graph.tolist() == SIZES
    for g, (src, dst) in enumerate(EDGES):
        assert sorted(zip(graphs[g].src.tolist(), graphs[g].dst.tolist())) == sorted(zip(src, dst))
        assert torch.equal(graphs[g].x, features(g))
    assert (dataset.labels if labels is None else dataset.labels.tolist()) == labels


@pytest.mark.parametrize("kind", ["dgl", "dgl with labels", "pyg", "pyg with labels", "pyg without labels"])
def test_a_list_is_read_as_it_is(kind):
    labels = [1, 0, 1, 1]
    lists = {
        "dgl": (dgl_graphs, None),
        "dgl with labels": (lambda: list(zip(dgl_graphs(), torch.tensor(labels))), labels),
        "pyg with labels": (lambda: list(zip(pyg_graphs((0, 0, 0, 1)), torch.tensor(labels))), labels),
        "pyg": (pyg_graphs, labels),
        "pyg without labels": (lambda: pyg_graphs(None), None),
    }
    make, expected = lists[kind]
    data = GraphData(make(), batch_size=2)
    data.setup()
    assert_is_the_list(data.train, expected)


def changed(g, **values):
    """The list, of which one graph has something else."""
    graphs = pyg_graphs()
    for name, value in values.items():
        setattr(graphs[g], name, value)
    return graphs


@pytest.mark.parametrize("none", [torch.empty(2, 0), torch.empty(2, 0).long()])
def test_a_graph_without_edges_is_one_among_others(none):
    graphs = read_graphs(changed(1, edge_index=none)).graphs
    assert graphs.edge_ptr.diff().tolist() == [3, 0, 2, 2]
    assert graphs[2].src.tolist() == [1, 0] and graphs[2].dst.tolist() == [0, 1]


def test_arrays_of_numpy_and_float64_are_what_networks_take():
    graphs = pyg_graphs()
    for graph in graphs:
        graph.x, graph.edge_index = graph.x.double().numpy(), graph.edge_index.numpy()
    dataset = read_graphs(graphs)
    assert dataset.graphs.x.dtype == torch.float32
    assert_is_the_list(dataset, [1, 0, 1, 1])
    GraphEncoder(node_features=2, num_hidden=4, num_layers=2)(dataset.graphs)


def test_features_that_are_not_read_for_their_name_are_told_of(caplog):
    graphs = dgl_graphs()
    for graph in graphs:
        graph.ndata["h"] = graph.ndata.pop("feat")
    read_graphs(graphs)
    assert "no node features are read: ndata has h, and none of x, feat, attr" in caplog.text
    caplog.clear()
    graphs = dgl_graphs()
    read_graphs(graphs)
    assert not caplog.text
    for graph in graphs:
        graph.edata.clear()
        graph.edata["w"] = torch.ones(graph.num_edges())
    read_graphs(graphs)
    assert (
        "no edge features are read: edata has w, and none of edge_attr, edge_weight, edge_type" in caplog.text
    )


def test_features_of_pyg_that_are_not_read_for_their_name_are_told_of(caplog):
    graphs = pyg_graphs()
    read_graphs(graphs)
    assert not caplog.text
    for graph in graphs:
        graph.pos = graph.x
        del graph.x
    read_graphs(graphs)
    assert "no node features are read: Data has pos, and none of x; name them so" in caplog.text


def test_targets_of_several_numbers_stay_numbers():
    graphs = pyg_graphs()
    for graph in graphs:
        graph.y = torch.tensor([[0.5, float("nan")]])
    labels = read_graphs(graphs).labels
    assert labels.shape == (4, 2) and labels[:, 1].isnan().all() and labels[0, 0] == 0.5


def test_pretraining_on_a_list():
    module = ContrastiveModule(
        GraphEncoder(node_features=2, num_hidden=8, num_layers=2), [EdgeDrop(p=0.2)], channels_last=False
    )
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer = Trainer(max_steps=4, enable_model_summary=False, **quiet)
    trainer.fit(module, GraphData(dgl_graphs(), batch_size=2))
    assert trainer.global_step == 4


@pytest.mark.parametrize("name", ["labels", "glabel", "anything", None])
def test_a_file_of_dgl_is_read_with_its_labels(name, tmp_path):
    graphs = dgl_graphs()
    dgl.save_graphs(str(tmp_path / "g.bin"), graphs, {name: torch.tensor([7, 5, 7, 7])} if name else None)
    dataset = read_graphs(str(tmp_path / "g.bin"))
    assert_is_the_list(dataset, [1, 0, 1, 1] if name else None)
    assert dataset.classes == (["5", "7"] if name else [])


def test_a_file_from_the_command_line(tmp_path):
    dgl.save_graphs(str(tmp_path / "g.bin"), dgl_graphs())
    args = ["--config", "configs/graph/graphcl.yaml", "--data.source", str(tmp_path / "g.bin")]
    args += ["--data.batch_size", "2", "--model.encoder.node_features", "2"]
    args += ["--run_dir", str(tmp_path / "run"), "--wandb", "off", "--trainer.max_steps", "2"]
    args += ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    assert main(["pretrain", *args]) == 0


def test_the_way_out_that_a_pickle_is_refused_with_works(tmp_path, monkeypatch):
    graphs = pyg_graphs()
    torch.save(graphs, tmp_path / "mine.pt")
    with pytest.raises(ContrastiveError, match="may hold code that runs when it is opened") as refused:
        read_graphs(str(tmp_path / "mine.pt"))
    lines = str(refused.value).splitlines()
    exec("\n".join(line.strip() for line in lines if line.startswith("    ")))
    assert_is_the_list(read_graphs(str(tmp_path / "mine.bin")), [1, 0, 1, 1])


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('run')",)


@pytest.mark.parametrize("suffix", ["pt", "pth", "pkl", "bin"])
def test_no_code_in_a_file_is_run(suffix, tmp_path):
    (tmp_path / f"bomb.{suffix}").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ContrastiveError, match=f"bomb.{suffix}"):
        read_graphs(str(tmp_path / f"bomb.{suffix}"))


@pytest.mark.parametrize("content", [None, b"", b"not a file of DGL", "half"])
def test_a_file_that_is_not_dgls_is_named(content, tmp_path):
    path = tmp_path / "g.bin"
    dgl.save_graphs(str(path), dgl_graphs())
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ContrastiveError, match="g.bin is no file that dgl.save_graphs wrote"):
        read_graphs(str(path))


def test_labels_of_several_names_are_asked_for(tmp_path):
    y = torch.zeros(4)
    dgl.save_graphs(str(tmp_path / "g.bin"), dgl_graphs(), {"mass": y, "charge": y})
    with pytest.raises(
        ContrastiveError, match="several labels, charge, mass; save the ones to take as 'labels'"
    ):
        read_graphs(str(tmp_path / "g.bin"))


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: [], "it holds nothing"),
        (lambda: [np.zeros(3), "graph"], "it holds ndarray, str"),
        (lambda: dgl_graphs() + pyg_graphs(), "of one kind; it holds DGLGraph, Data"),
        (lambda: [(g, 1 if i else None) for i, g in enumerate(dgl_graphs())], "1 of 4 graphs have no label"),
        (lambda: [dgl.batch(dgl_graphs())], "4 graphs are batched in 1"),
        (lambda: dgl_graphs()[0], "expected a list of graphs; it is a DGLGraph"),
        (lambda: pyg_graphs()[0], "expected a list of graphs; it is a Data"),
        (
            lambda: changed(1, edge_index=torch.tensor([[2], [3]])),
            r"graph 1 has the edge \(2, 3\), .* in 0 … 1",
        ),
        (lambda: changed(1, edge_index=torch.tensor([[0], [-1]])), r"graph 1 has the edge \(0, -1\)"),
        (lambda: changed(1, edge_index=None), "graph 1 has no edge_index"),
        (
            lambda: changed(1, edge_index=torch.zeros(5, 2).long()),
            r"graph 1 has shape \(5, 2\).*; transpose it",
        ),
        (lambda: changed(1, edge_index=torch.zeros(2, 1)), "edge_index of graph 1 has dtype torch.float32"),
        (lambda: changed(2, x=torch.zeros(2, 3)), r"x is \(3, 2\) in graph 0 but \(2, 3\) in graph 2"),
        (lambda: changed(2, y="active"), "a label is 'active', expected a number"),
        (lambda: [(g, "ab"[i % 2]) for i, g in enumerate(dgl_graphs())], "a label is 'a', expected a number"),
        (
            lambda: [*dgl_graphs(), dgl.graph(([0], [1]))],
            "do not fit together: Expect all graphs to have the same",
        ),
    ],
)
def test_what_is_wrong_with_a_list_is_said(make, message):
    with pytest.raises(ContrastiveError, match=message):
        read_graphs(make())


def test_graphs_of_other_features_than_a_run_had_are_refused(tmp_path):
    torch.manual_seed(0)
    encoder = FrozenEncoder(GraphEncoder(node_features=3, num_hidden=4, num_layers=2), torch.nn.Identity())
    dgl.save_graphs(str(tmp_path / "g.bin"), dgl_graphs())
    with pytest.raises(ContrastiveError, match=r"have 2 number\(s\) each, but the encoder takes 3"):
        read_items(encoder, str(tmp_path / "g.bin"))


class Own(torch.nn.Module):
    """Of no package that is known."""


def test_categories_are_named_as_the_command_line_takes_them():
    x = torch.tensor([[3, 0], [1, 1]])
    model = torch.nn.Module()
    model.encoder = GraphEncoder(node_features=3, num_hidden=4)
    with pytest.raises(ContrastiveError, match=r"node_features '\[4, 2\]'"):
        refuse_other_features(model, x, "g.bin")
    model.encoder = GraphEncoder(node_features=[5, 1], num_hidden=4)
    with pytest.raises(
        ContrastiveError, match=r"column 1 of .* has the category 1, .*node_features '\[4, 2\]'"
    ):
        refuse_other_features(model, x, "g.bin")
    model.preprocess = Own()  # which may give the encoder others
    refuse_other_features(model, x, "g.bin")


PAIR = torch.tensor([[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            {"x": torch.ones(2, 1)},
            {"x": torch.ones(2, 1).long()},
            "x is torch.float32 in graph 0 but torch.int64 in",
        ),
        (
            {"x": torch.ones(2, 1)},
            {"x": torch.ones(2, 2)},
            r"x is \(2, 1\) in graph 0 but \(2, 2\) in graph 1",
        ),
        ({"x": torch.ones(3, 1)}, {"x": torch.ones(1, 1)}, "x of graph 0 has shape .* each of its 2 nodes"),
        (
            {"edge_attr": torch.ones(1, 1)},
            {"edge_attr": torch.ones(3, 1)},
            "edge_attr of graph 0 has .* its 2 edges",
        ),
        ({"x": torch.ones(2, 3, 4)}, {"x": torch.ones(2, 3, 4)}, "x has shape"),
    ],
)
def test_rows_of_one_graph_are_never_taken_for_those_of_another(first, second, message):
    data = pytest.importorskip("torch_geometric.data")
    graphs = [data.Data(edge_index=PAIR, num_nodes=2, **features) for features in (first, second)]
    with pytest.raises(ContrastiveError, match=message):
        read_graphs(graphs)


def test_features_of_edges_and_of_some_types_that_are_not_read_are_told_of(caplog):
    data = pytest.importorskip("torch_geometric.data")
    read_graphs([data.Data(edge_index=PAIR[:, :1], num_nodes=2, edge_length=torch.ones(1))])
    assert "no edge features are read: Data has edge_length" in caplog.text
    caplog.clear()
    read_graphs([data.Data(edge_index=PAIR, x=torch.ones(3, 1), y=torch.ones(2))] * 2)
    assert not caplog.text, "labels as many as edges are no features of them"
    graph = dgl.heterograph({("a", "r", "b"): ([0], [0])})
    graph.nodes["a"].data["x"] = torch.ones(1, 2)
    read_graphs([graph])
    assert "x is not read: not all of the types a, b have it" in caplog.text


def test_another_way_to_describe_nodes_is_refused():
    with pytest.raises(ContrastiveError, match="node_features is 'degrees'; give auto, attributes or degree"):
        read_graphs([dgl.graph(([0], [1]))], node_features="degrees")
