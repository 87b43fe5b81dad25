import os
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from contrastive.data.neighbourhoods import sample_neighbourhood
from contrastive.data.node_files import read_nodes, undirected_graph
from contrastive.data.nodes import NodeData, NodePasses, Passes
from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder
from contrastive.items import encode_items
from encoders.graph import GraphEncoder, NodeEncoder
from encoders.sparse_features import SparseFeatures

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
needs_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the published data sets are not on this machine (shared/data)"
)


class Code:
    """What a pickle must not be able to do."""

    def __reduce__(self):
        return os.system, ("touch /tmp/contrastive-was-here",)


def ring(num_nodes=40, width=5):
    src = np.arange(num_nodes)
    x = np.random.default_rng(0).random((num_nodes, width), np.float32)
    return undirected_graph(src, (src + 1) % num_nodes, x)


def object_npz(path, **arrays):
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(value, dtype=object), allow_pickle=True)


@needs_data
@pytest.mark.parametrize(
    "source, nodes, edges, classes, split",
    [  # as published, edges in both directions
        ("planetoid/cora", 2708, 10556, 7, (140, 500, 1000)),
        ("planetoid/citeseer", 3327, 9104, 6, (120, 500, 1000)),
        ("gnn_npz/amazon_photo.npz", 7650, 238162, 8, None),
    ],
)
def test_published_graphs(source, nodes, edges, classes, split):
    dataset = read_nodes(str(SHARED / source))
    assert (dataset.graph.num_nodes, dataset.graph.num_edges) == (nodes, edges)
    assert len(dataset.labels[dataset.labels >= 0].unique()) == classes
    assert (dataset.labels < 0).sum() == (15 if "citeseer" in source else 0)  # in no file
    assert split == (dataset.split and tuple(len(part) for part in dataset.split))
    if isinstance(dataset.graph.x, SparseFeatures):
        sums = dataset.graph.x.dense().sum(1)
        assert torch.allclose(sums[sums > 0], torch.ones(()))


def test_arrays_that_are_not_read_are_told_of(tmp_path, caplog):
    path, x = tmp_path / "mine.npz", np.ones((3, 2))
    names = {"class_names": ["a", "b"], "attr_names": ["c", "d"], "metadata": "M"}  # of gnn-benchmark
    np.savez(path, edges=[[0, 1], [1, 2]], x=x, y=[0, 1, 0], **names)
    read_nodes(str(path))
    assert not caplog.text
    np.savez(path, edges=[[0, 1], [1, 2]], features=x, train_mask=[True, False, True])
    read_nodes(str(path))
    assert "mine.npz: not read are features, train_mask; names that are: edges, x, y" in caplog.text


def test_an_npz_of_plain_arrays(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, edges=[[0, 1], [1, 2], [2, 2]], x=np.eye(3, 2, dtype=np.float32) + 1, y=[0, 1, 0])
    dataset = read_nodes(str(path))
    assert sorted(zip(dataset.graph.src.tolist(), dataset.graph.dst.tolist())) == [
        (0, 1),
        (1, 0),
        (1, 2),
        (2, 1),
    ]
    assert dataset.labels.tolist() == [0, 1, 0] and torch.allclose(dataset.graph.x.sum(1), torch.ones(3))


@pytest.mark.parametrize("known", ["matrix", "labels", "edges"])
def test_without_features_every_node_that_is_known_of_is_its_own_word(known, tmp_path):
    matrix = sparse.csr_matrix(([3.0, 0.5], ([0, 1], [1, 2])), shape=(5, 5))
    parts = {f"adj_{part}": getattr(matrix, part) for part in ("data", "indices", "indptr", "shape")}
    edges = {"edges": [[0, 1], [1, 2]]}
    given = {"matrix": parts, "labels": edges | {"y": [0, 1, 0, 1, 0]}, "edges": edges}[known]
    np.savez(tmp_path / "mine.npz", **given)
    graph = read_nodes(str(tmp_path / "mine.npz")).graph
    assert graph.num_nodes == (3 if known == "edges" else 5) and graph.num_edges == 4
    assert torch.equal(
        graph.x if isinstance(graph.x, torch.Tensor) else graph.x.dense(), torch.eye(len(graph.x))
    )


@pytest.mark.parametrize("kind", [str, bytes, object])
def test_classes_in_words_are_names(kind, tmp_path):
    y = np.array(["tea", "milk", "tea"]).astype(kind)
    np.savez(tmp_path / "mine.npz", edges=[[0, 1], [1, 2]], x=np.ones((3, 2)), y=y.reshape(-1, 1))
    dataset = read_nodes(str(tmp_path / "mine.npz"))
    assert (dataset.labels.tolist(), dataset.classes) == ([1, 0, 1], ("milk", "tea"))


@pytest.mark.parametrize("blank", [None, float("nan"), ""])
def test_a_class_of_no_name_is_not_known(blank, tmp_path):
    y = np.array(["tea", blank, "milk"], dtype=object)
    np.savez(tmp_path / "mine.npz", edges=[[0, 1], [1, 2]], x=np.ones((3, 2)), y=y)
    dataset = read_nodes(str(tmp_path / "mine.npz"))
    assert (dataset.labels.tolist(), dataset.classes) == ([1, -1, 0], ("milk", "tea"))


def test_a_class_that_is_no_word_among_words_is_named(tmp_path):
    y = np.array(["tea", 3, "milk"], dtype=object)
    np.savez(tmp_path / "mine.npz", edges=[[0, 1], [1, 2]], x=np.ones((3, 2)), y=y)
    with pytest.raises(ContrastiveError, match="y in row 1 is 3; give classes by name, or by number"):
        read_nodes(str(tmp_path / "mine.npz"))


def test_scipys_matrices_are_read_and_code_is_not(tmp_path):
    path = tmp_path / "graph.npz"
    adjacency = sparse.csr_matrix(np.array([[0, 1], [0, 0]]))
    object_npz(path, adj_matrix=adjacency, node_attr=sparse.csr_matrix(np.eye(2)))
    assert read_nodes(str(path)).graph.num_edges == 2
    object_npz(path, adj_matrix=Code(), node_attr=sparse.csr_matrix(np.eye(2)))
    with pytest.raises(ContrastiveError, match=r"adj_matrix was not opened: it names (posix|nt)\.system"):
        read_nodes(str(path))
    assert not Path("/tmp/contrastive-was-here").exists()


def test_planetoid_files_with_code_are_refused(tmp_path):
    for part in ("x", "y", "allx", "ally", "tx", "ty", "graph"):
        (tmp_path / f"ind.evil.{part}").write_bytes(pickle.dumps(Code()))
    with pytest.raises(ContrastiveError, match=r"ind\.evil\.y was not opened"):
        read_nodes(str(tmp_path / "evil"))


def test_planetoid_nodes_that_no_file_tells_of_have_no_class(tmp_path):
    """The test index passes over node 4, as CiteSeer's does over fifteen."""
    x, y = sparse.csr_matrix(np.eye(3, dtype=np.float32)), np.eye(3)
    parts = {"y": y[:1], "allx": x, "ally": y, "tx": x[1:], "ty": y[1:], "graph": {0: [3], 1: [5]}}
    for name, part in parts.items():
        (tmp_path / f"ind.toy.{name}").write_bytes(pickle.dumps(part))
    (tmp_path / "ind.toy.test.index").write_text("5\n3\n")
    dataset = read_nodes(str(tmp_path / "toy"))
    assert dataset.labels.tolist() == [0, 1, 2, 2, -1, 1]
    x = dataset.graph.x if isinstance(dataset.graph.x, torch.Tensor) else dataset.graph.x.dense()
    assert not x[4].any() and dataset.split[2].tolist() == [3, 5]


def test_of_dgl_data_sets_alone_are_called(tmp_path):
    pytest.importorskip("dgl")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("member", "x")
    with pytest.raises(ContrastiveError, match="dgl.data has no extract_archive"):
        read_nodes(f"dgl:extract_archive:{tmp_path / 'a.zip'}:{tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["nowhere/cora", "missing.npz", "dgl:NoSuchDataset"])
def test_what_is_not_there_is_named(source, tmp_path):
    with pytest.raises(ContrastiveError, match=source.split(":")[-1]):
        read_nodes(source)


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_damaged_files_end_in_our_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("npz") / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(ContrastiveError):
        read_nodes(str(path))


@given(
    st.integers(2, 30), st.integers(0, 60), st.lists(st.sampled_from([-1, 0, 1, 2, 5]), max_size=3), st.data()
)
@settings(max_examples=80, deadline=None)
def test_sampled_neighbourhoods(num_nodes, num_edges, fanouts, data):
    generator = np.random.default_rng(data.draw(st.integers(0, 999)))
    src, dst = generator.integers(0, num_nodes, (2, num_edges))
    adjacency = undirected_graph(src, dst, np.ones((num_nodes, 1))).adjacency
    start = torch.randperm(num_nodes)[: data.draw(st.integers(1, num_nodes))]
    nodes, edges = sample_neighbourhood(adjacency, start, fanouts, seed=3)
    assert torch.equal(nodes[: len(start)], start) and len(nodes.unique()) == len(nodes)
    assert torch.isin(adjacency.src[edges], nodes).all() and torch.isin(adjacency.dst[edges], nodes).all()
    if fanouts:
        into = torch.bincount(adjacency.dst[edges], minlength=num_nodes)[start]
        expected = adjacency.degree[start]
        # a node of the first frontier is reached again by no later hop
        assert torch.equal(into, expected if fanouts[0] < 0 else expected.clamp(max=fanouts[0]))
    again = sample_neighbourhood(adjacency, start, fanouts, seed=3)
    assert torch.equal(again[0], nodes) and torch.equal(again[1], edges)


def test_each_neighbour_is_as_likely():
    star = undirected_graph(np.zeros(9, int), np.arange(1, 10), np.ones((10, 1)))
    counts = torch.zeros(10)
    for seed in range(900):
        nodes, _ = sample_neighbourhood(star.adjacency, torch.tensor([0]), [3], seed)
        counts[nodes[1:]] += 1
    assert counts.sum() == 2700 and (counts[1:] - 300).abs().max() < 75  # five standard deviations


def test_all_neighbours_of_all_hops_give_the_whole_graphs_features():
    graph = ring()
    passes = NodePasses(graph, num_targets=6, fanouts=[-1, -1], seed=0)
    batch = passes.__getitems__([7])
    encoder = NodeEncoder(node_features=5, num_hidden=8, num_layers=2, layer="sage", norm=False).eval()
    assert batch.input.num_nodes < graph.num_nodes
    torch.testing.assert_close(encoder(batch.input), encoder(graph)[passes.targets(7)])


def test_processes_share_the_targets_of_a_pass():
    ranks = [
        NodePasses(ring(), num_targets=8, fanouts=None, seed=0, rank=rank, world_size=3) for rank in range(3)
    ]
    targets = torch.cat([passes.targets(5) for passes in ranks])
    assert len(targets.unique()) == 24
    alone = NodePasses(ring(), num_targets=24, fanouts=None, seed=0).targets(5)
    assert torch.equal(alone, targets)


def test_epochs_number_their_passes():
    passes = Passes(3)
    passes.set_epoch(2)
    assert list(passes) == [6, 7, 8] and len(passes) == 3


def test_more_targets_than_nodes_are_refused(tmp_path):
    path = tmp_path / "small.npz"
    np.savez(path, edges=np.array([[0, 1]]), x=np.ones((2, 1), np.float32))
    with pytest.raises(ContrastiveError, match="2 nodes, fewer than a batch of 5"):
        NodeData(str(path), batch_size=5).setup()
    with pytest.raises(ValueError, match="batch_size"):
        NodeData(str(path), fanouts=[3])


def test_encoders_of_graphs_are_refused_for_nodes(tmp_path):
    path = tmp_path / "small.npz"
    np.savez(path, edges=np.array([[0, 1]]), x=np.ones((2, 1), np.float32))
    encoder, data = GraphEncoder(node_features=1, num_hidden=4), NodeData(str(path))
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(encoder=encoder), world_size=1)
    with pytest.raises(ContrastiveError, match=r"GraphEncoder gives a row a graph, .* take encoders\.graph"):
        data.setup()
    frozen = FrozenEncoder(encoder, torch.nn.Identity())
    with pytest.raises(ContrastiveError, match=r"gives 1 row\(s\) of features for 2 items"):
        encode_items(frozen, read_nodes(str(path)))
