# ruff: noqa: E501  messages are written whole, a fault a line
"""Graphs with something wrong, and what is printed of each."""

import os
import pickle
import zipfile

import numpy as np
import torch
from fault_cases import Fault

from contrastive.data.graphs import GraphDataset, read_graphs
from contrastive.data.node_files import read_nodes
from contrastive.evaluation.protocol import Protocol
from contrastive.evaluation.tasks import read_task
from contrastive.features import FrozenEncoder
from contrastive.pretrain import pretrain
from encoders.graph import GraphEncoder, NodeEncoder
from encoders.graph_batch import GraphBatch

GRAPHS = {
    "A": "1, 2\n2, 1\n3, 4\n4, 3\n",
    "graph_indicator": "1\n1\n2\n2\n",
    "graph_labels": "0\n1\n",
    "node_attributes": "1\n2\n3\n4\n",
}


def files(folder, **changed):
    (folder / "TOY").mkdir()
    for kind, text in (GRAPHS | changed).items():
        (folder / "TOY" / f"TOY_{kind}.txt").write_text(text)
    return str(folder / "TOY")


def tu(**changed):
    def meet(folder):
        graphs = read_graphs(files(folder, **changed)).graphs
        nodes, edges = graphs.nodes_per_graph.tolist(), graphs.edge_ptr.diff().tolist()
        encoder = GraphEncoder(node_features=graphs.x.shape[1], num_hidden=4, num_layers=2).eval()
        assert encoder(graphs).isfinite().all()
        return f"read: graphs of {nodes} nodes and {edges} edges"

    return meet


def escaping_zip(folder):
    """Members that would lie outside of the folder, were the zip unpacked."""
    with zipfile.ZipFile(folder / "TOY.zip", "w") as file:
        for kind, text in GRAPHS.items():
            file.writestr(f"../../TOY_{kind}.txt", text)
    graphs = read_graphs(str(folder / "TOY.zip")).graphs
    assert [path.name for path in folder.iterdir()] == ["TOY.zip"]
    assert not list(folder.parent.glob("TOY_*")) and not list(folder.parent.parent.glob("TOY_*"))
    return f"read: {len(graphs)} graphs, in memory; nothing is unpacked"


def constant_graphs(folder):
    source = files(
        folder,
        A="".join(f"{i}, {i + 1}\n{i + 1}, {i}\n" for i in range(1, 24, 2)),
        graph_indicator="".join(f"{i // 2 + 1}\n" for i in range(24)),
        graph_labels="1\n" * 12,
        node_attributes="1\n" * 24,
    )
    probe(GraphEncoder(node_features=1, num_hidden=4), "contrastive.data.graphs.GraphData", source)


class Summed(torch.nn.Module):
    """An encoder of one's own that forgets to say that it takes graphs."""

    num_features = 8

    def __init__(self, node_features: int, num_features: int = 8):
        super().__init__()
        self.linear = torch.nn.Linear(node_features, num_features)

    def forward(self, batch):
        h = self.linear(batch.x)
        return h.new_zeros(batch.num_graphs, h.shape[1]).index_add(0, batch.graph_of_node, h)


class SummedGraphs(Summed):
    """And one that says so, but not what their features are."""

    takes_graphs = True


def recipe(name, source, **changed):
    """A recipe that does not fit the data."""

    def meet(folder):
        files(folder)
        npz()(folder)
        options = {"data.source": folder / source, "data.batch_size": 2, "run_dir": folder / "run"}
        options |= {"wandb": "off", "trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false"}
        options |= {key.replace("__", "."): value for key, value in changed.items()}
        pretrain(
            ["--config", f"configs/{name}.yaml", *(f"--{key}={value}" for key, value in options.items())]
        )

    return meet


def probe(encoder, data, source):
    config = {"data": {"class_path": data, "init_args": {"source": source}}}
    read_task(FrozenEncoder(encoder, torch.nn.Identity(), config), Protocol(source))


def npz(**changed):
    def meet(folder):
        arrays = {"edges": np.array([[0, 1], [1, 2]]), "x": np.ones((3, 2), np.float32), "y": np.arange(3)}
        np.savez(folder / "g.npz", **{k: v for k, v in (arrays | changed).items() if v is not None})
        graph = read_nodes(str(folder / "g.npz")).graph
        return f"read: {graph.num_nodes} nodes, {graph.num_edges} edges"

    return meet


def constant_nodes(folder):
    npz(y=np.zeros(3, int))(folder)
    encoder = NodeEncoder(node_features=2, num_hidden=4)
    probe(encoder, "contrastive.data.nodes.NodeData", str(folder / "g.npz"))


class Code:
    """What runs a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/contrastive-was-here",)


def code(folder):
    for part in ("x", "y", "allx", "ally", "tx", "ty", "graph"):
        (folder / f"ind.evil.{part}").write_bytes(pickle.dumps(Code()))
    read_nodes(str(folder / "evil"))


def edges(**arguments):
    def meet(folder):
        GraphBatch.from_edges(**arguments)

    return meet


NAN = float("nan")
FAULTS = [
    Fault("a graph without nodes among others", tu(graph_indicator="1\n1\n3\n3\n", graph_labels="0\n1\n0\n"), "read: graphs of [2, 0, 2] nodes and [2, 0, 2] edges"),
    Fault("graphs without edges", tu(A="1, 2\n2, 1\n"), "read: graphs of [2, 2] nodes and [2, 0] edges"),
    Fault("no edges at all", tu(A=""), "…/TOY: TOY_A.txt is empty"),
    Fault("a self-loop", tu(A="1, 1\n3, 4\n"), "read: graphs of [2, 2] nodes and [1, 1] edges"),
    Fault("an edge that is there twice", tu(A="1, 2\n1, 2\n3, 4\n"), "read: graphs of [2, 2] nodes and [2, 1] edges"),
    Fault("an edge to a node that is not there", tu(A="1, 2\n3, 9\n"), "…/TOY: TOY_A.txt: edge 1 has destination 8, expected a node in 0 … 3 (1 such edges; nodes are numbered from 0)"),
    Fault("an edge from one graph to another", tu(A="1, 3\n"), "…/TOY: TOY_A.txt: edge 0 = (0, 2) joins graphs 0 and 1: number the nodes through the batch, and give their offsets as ptr"),
    Fault("an attribute that is NaN", tu(node_attributes="1\nnan\n3\n4\n"), "…/TOY: TOY_A.txt: x has in row 1 (1 such rows) NaN or an infinity; replace it first"),
    Fault("a file of labels that is too short", tu(graph_labels="0\n"), "…/TOY: TOY_graph_labels.txt has 1 lines; the others ask for 2"),
    Fault("a zip whose files are named ../../TOY_A.txt, …", escaping_zip, "read: 2 graphs, in memory; nothing is unpacked"),
    Fault("graphs for a recipe that takes other features", recipe("graph/graphcl", "TOY"), "the nodes of …/TOY have 1 number(s) each, but the encoder takes 3 number(s): pass --model.encoder.init_args.node_features 1"),
    Fault("one graph, for a recipe that takes other features", recipe("node/grace", "g.npz"), "the nodes of …/g.npz have 2 number(s) each, but the encoder takes 1433 number(s): pass --model.encoder.init_args.node_features 2"),
    Fault("graphs for an encoder that does not say that it takes them", recipe("graph/graphcl", "TOY", model__encoder="faults_graphs.Summed", model__encoder__node_features=1), "…/TOY holds graphs, but Summed does not say that it takes them: set takes_graphs = True in its class, or give an encoder of graphs"),
    Fault("a batch of one graph", recipe("graph/graphcl", "TOY", model__encoder__node_features=1, data__batch_size=1), "a batch of 1 is compared with its other samples, and has none: give a batch_size of 2 or more, on every process"),
    Fault("a batch of no graph", recipe("graph/graphcl", "TOY", data__batch_size=0), "the configuration cannot be built: batch_size is 0; give 2 samples or more"),
    Fault("graphs that are all of one class", constant_graphs, "…/TOY has one class only (1); a probe needs two or more"),
    Fault("labels for another number of graphs", lambda f: GraphDataset(GraphBatch.from_edges([(0, 1)]), torch.tensor([0, 1])), "there are 2 labels for 1 graphs; give one each"),
    Fault("one graph, an edge to a node that is not there", npz(edges=np.array([[0, 1], [1, 3]])), "…/g.npz: edge 1 = (1, 3) names a node outside 0 … 2 (1 such edges; nodes are numbered from 0)"),
    Fault("one graph, a node numbered -1", npz(edges=np.array([[-1, 1]])), "…/g.npz: edge 0 = (-1, 1) names a node outside 0 … 2 (1 such edges; nodes are numbered from 0)"),
    Fault("one graph, a self-loop and an edge twice", npz(edges=np.array([[0, 0], [0, 1], [1, 0]])), "read: 3 nodes, 2 edges"),
    Fault("one graph, no edges", npz(edges=np.empty((0, 2))), "read: 3 nodes, 0 edges"),
    Fault("one graph, edges that are no integers", npz(edges=np.array([[0.5, 1]])), "…/g.npz: edges is float64 of the shape (1, 2); expected integers (E, 2)"),
    Fault("one graph, a feature that is NaN", npz(x=np.array([[1, 1], [NAN, 1], [1, 1]])), "…/g.npz: x has in row 1 NaN or an infinity (1 such values); replace them first"),
    Fault("one graph, a label that is NaN, a blank", npz(y=np.array([0, NAN, 1])), "read: 3 nodes, 4 edges"),
    Fault("one graph, a label in words that is empty", npz(y=np.array(["a", "", "b"])), "read: 3 nodes, 4 edges"),
    Fault("one graph, a label that is no class", npz(y=np.array([0, -2, 1])), "…/g.npz: y is -2 in row 1 (1 such rows); number classes from 0"),
    Fault("one graph, several labels in words", npz(y=np.array([["a", "b"]] * 3)), "…/g.npz: y has words of the shape (3, 2); give one class a node, (N,)"),
    Fault("one graph, labels that are constant", constant_nodes, "…/g.npz has one class only (0); a probe needs two or more"),
    Fault("one graph, without features, a node numbered 10¹²", npz(edges=np.array([[0, 10**12]]), x=None, y=None), "…/g.npz: an edge names node 1000000000000, but there are 1 edges and no x: number the nodes from 0 without gaps, or give x"),
    Fault("one graph, without nodes", npz(edges=np.empty((0, 2)), x=None, y=None), "…/g.npz has no nodes"),
    Fault("Planetoid's files with code in them", code, "…/evil: …/ind.evil.y was not opened: it names posix.system, which is neither an array nor a list"),
    Fault("in Python, an edge type below 0", edges(edges=[(0, 1)], edge_type=[-1]), "edge_type has in row 0 (1 such rows) a negative category; number categories from 0"),
]  # fmt: skip
