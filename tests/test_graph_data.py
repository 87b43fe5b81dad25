import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.data.graphs import GraphData, GraphDataset, one_hot_degree, read_graphs
from contrastive.errors import ContrastiveError
from encoders.graph_batch import GraphBatch

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "tu"
needs_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the TUDataset files are not on this machine (shared/data/tu)"
)

FILES = {  # two graphs: a triangle and an edge, in both directions
    "A": "1, 2\n2, 1\n2, 3\n3, 2\n1, 3\n3, 1\n4, 5\n5, 4\n",
    "graph_indicator": "1\n1\n1\n2\n2\n",
    "graph_labels": "-1\n1\n",
    "node_labels": "0\n0\n2\n0\n2\n",
    "node_attributes": "0.5, 1\n1, 1\n2, 1\n3, 1\n4, 1\n",
    "edge_labels": "0\n0\n1\n1\n0\n0\n1\n1\n",
}


def write(folder, files=FILES):
    folder.mkdir(exist_ok=True)
    for kind, text in files.items():
        (folder / f"TOY_{kind}.txt").write_text(text)
    return folder


@pytest.fixture(params=["folder", "zip"])
def toy(request, tmp_path):
    folder = write(tmp_path / "TOY")
    if request.param == "folder":
        return str(folder)
    with zipfile.ZipFile(tmp_path / "TOY.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"TOY/{file.name}")
    return str(tmp_path / "TOY.zip")


def test_the_files_of_a_small_set(toy):
    dataset = read_graphs(toy)
    assert dataset.classes == ["-1", "1"] and dataset.labels.tolist() == [0, 1]
    assert dataset.graphs.nodes_per_graph.tolist() == [3, 2]
    assert dataset.graphs.x.tolist() == [
        [1, 0, 0.5, 1],
        [1, 0, 1, 1],
        [0, 1, 2, 1],
        [1, 0, 3, 1],
        [0, 1, 4, 1],
    ]
    batch = dataset.__getitems__([1])
    assert batch.label.tolist() == [1] and batch.index.tolist() == [1]
    assert batch.input.src.tolist() == [1, 0] and batch.input.edge_attr.tolist() == [[0, 1], [0, 1]]


def test_degrees_stand_in_for_features(toy):
    graphs = read_graphs(toy, node_features="degree", max_degree=1).graphs
    assert graphs.x.shape == (5, 2) and graphs.x[:, 1].all()  # a higher degree counts as the highest


@needs_data
@pytest.mark.parametrize(
    "name, graphs, nodes, edges, width, classes",
    [  # the statistics that TUDataset publishes; edges in both directions
        ("MUTAG", 188, 3371, 7442, 7, 2),
        ("PROTEINS", 1113, 43471, 162088, 3, 2),
        ("IMDB-BINARY", 1000, 19773, 193062, 65, 2),
    ],
)
def test_published_sets(name, graphs, nodes, edges, width, classes):
    dataset = read_graphs(str(SHARED / f"{name}.zip"))
    batch = dataset.graphs
    assert (len(batch), batch.num_nodes, batch.num_edges, batch.x.shape[1]) == (graphs, nodes, edges, width)
    assert len(dataset.classes) == classes
    assert torch.equal(batch.graph_of_node[batch.src], batch.graph_of_node[batch.dst])


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("A", "1, 2\n2, x\n", r"TOY_A\.txt does not parse"),
        ("A", "1, 9\n", r"TOY_A\.txt: .*8"),
        ("A", "1, 4\n", r"TOY_A\.txt: .*graph"),
        ("A", "1\n2\n", "1 numbers a line; expected 2"),
        ("graph_indicator", "1\n2\n1\n2\n2\n", "never fall"),
        ("graph_indicator", "", r"graph_indicator\.txt is empty"),
        ("graph_labels", "1\n", "has 1 lines; the others ask for 2"),
        ("node_labels", "1\n", "has 1 lines; the others ask for 5"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_what_is_wrong_with_a_file_is_said(tmp_path, kind, text, message):
    files = {k: v for k, v in FILES.items() if kind != "A" or k != "edge_labels"}
    with pytest.raises(ContrastiveError, match=message):
        read_graphs(str(write(tmp_path / "TOY", files | {kind: text})))


@pytest.mark.parametrize(
    "text,labels,classes",
    [
        ("3\r\n-1\r\n", [1, 0], ["-1", "3"]),
        ("nan\n4\n", [-1, 0], ["4"]),
        ("0.5\n1.75\n", [[0.5], [1.75]], []),
        ("1, 0\n0, 1\n", [[1, 0], [0, 1]], []),
    ],
)
def test_labels_are_classes_where_they_are_whole_and_one_a_graph(tmp_path, text, labels, classes):
    dataset = read_graphs(str(write(tmp_path / "TOY", FILES | {"graph_labels": text})))
    assert dataset.labels.tolist() == labels and dataset.classes == classes


def test_what_a_mac_adds_to_a_zip_is_passed_over(tmp_path):
    with zipfile.ZipFile(tmp_path / "TOY.zip", "w") as archive:
        for kind, text in FILES.items():
            archive.writestr(f"TOY/TOY_{kind}.txt", text)
            archive.writestr(f"__MACOSX/TOY/._TOY_{kind}.txt", b"\0\5\26\7")
    assert len(read_graphs(str(tmp_path / "TOY.zip"))) == 2


def test_missing_files_and_features_are_named(tmp_path):
    with pytest.raises(ContrastiveError, match="no folder or zip"):
        read_graphs(str(tmp_path / "nowhere"))
    with pytest.raises(ContrastiveError, match="must hold one NAME_A.txt, but holds 0"):
        read_graphs(str(tmp_path))
    bare = write(tmp_path / "TOY", {k: FILES[k] for k in ("A", "graph_indicator")})
    with pytest.raises(ContrastiveError, match="node_features: degree"):
        read_graphs(str(bare), node_features="attributes")
    assert read_graphs(str(bare)).labels is None
    (tmp_path / "TOY" / "TOY_graph_indicator.txt").unlink()
    with pytest.raises(ContrastiveError, match=r"graph_indicator\.txt is missing"):
        read_graphs(str(bare))
    (tmp_path / "broken.zip").write_bytes(b"PK no")
    with pytest.raises(ContrastiveError, match="is not a zip"):
        read_graphs(str(tmp_path / "broken.zip"))


@given(st.sampled_from(sorted(FILES)), st.text(max_size=40))
@settings(max_examples=80, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_any_text_is_read_or_refused(tmp_path_factory, kind, text):
    folder = write(tmp_path_factory.mktemp("tu") / "TOY", FILES | {kind: text.replace("\r", "")})
    try:
        assert len(read_graphs(str(folder))) >= 1
    except ContrastiveError as error:
        assert "TOY" in str(error)


def test_graphs_of_the_users_own(tmp_path):
    graphs = GraphBatch.from_edges([(0, 1)], x=np.ones((3, 2), np.float32), ptr=[0, 2, 3])
    dataset = GraphDataset(graphs, torch.tensor([0, 1]))
    assert dataset.subset(np.array([1])).graphs.num_nodes == 1
    assert one_hot_degree(graphs, 3).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    with pytest.raises(ContrastiveError, match="1 labels for 2 graphs"):
        GraphDataset(graphs, torch.tensor([0]))


def test_the_data_module_holds_out_what_it_says(toy):
    data = GraphData(toy, batch_size=1)
    data.setup()
    assert len(data.train) == 2 and data.val is None
    assert len(GraphData(toy, test_fraction=0.5).read("test")) == 1
