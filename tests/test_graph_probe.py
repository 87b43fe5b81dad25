import json

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler, normalize
from sklearn.svm import SVC
from torch import nn

from augmentations.diffusion import PPRDiffusion
from contrastive.data.graphs import GraphDataset
from contrastive.data.node_files import NodeDataset
from contrastive.errors import ContrastiveError
from contrastive.evaluation.classifiers import predict_linear, predict_svm
from contrastive.evaluation.draws import Draw, folds, random_splits
from contrastive.evaluation.protocol import Protocol
from contrastive.evaluation.raw import raw_features
from contrastive.evaluation.tasks import Task, read_task
from contrastive.features import FrozenEncoder
from encoders.graph import GraphEncoder, NodeEncoder
from encoders.graph_batch import GraphBatch


def write_tu(folder, num_graphs=40):
    """Rings and stars, which a sum over neighbours tells apart."""
    generator = np.random.default_rng(0)
    edges, indicator, labels, first = [], [], [], 1
    for g in range(num_graphs):
        n, star = int(generator.integers(5, 9)), g % 2
        nodes = np.arange(first, first + n)
        ends = [(first, v) for v in nodes[1:]] if star else list(zip(nodes, np.roll(nodes, 1)))
        edges += [f"{u}, {v}" for a, b in ends for u, v in ((a, b), (b, a))]
        indicator += [str(g + 1)] * n
        labels.append(str(star))
        first += n
    folder.mkdir()
    for kind, lines in {"A": edges, "graph_indicator": indicator, "graph_labels": labels}.items():
        (folder / f"SHAPES_{kind}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_graphs_from_the_command_line(command, tmp_path):
    source, run = write_tu(tmp_path / "SHAPES"), tmp_path / "run"
    settings = ["--data.source", source, "--model.encoder.node_features", 65, "--trainer.max_epochs", 4]
    for method in ("graphcl", "infograph"):
        done = command(
            "pretrain", "--config", f"configs/graph/{method}.yaml", "--run_dir", run / method,
            "--wandb", "off",
            "--data.batch_size", 16, *settings,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = command("probe", run / "graphcl")
    assert done.returncode == 0, done.stderr
    result = json.loads((run / "graphcl" / "results" / "probe.json").read_text())
    rows = {row["representation"]: row for row in result["rows"]}
    assert rows.keys() == {"pretrained", "untrained", "raw"} and "10-fold" in result["task"]["splits"]
    assert rows["pretrained"]["accuracy_mean"] > 0.9 and len(rows["raw"]["draws"]) == 10


def test_graphs_of_no_known_class_are_in_no_fold(tmp_path):
    source = write_tu(tmp_path / "SHAPES")
    labels = source / "SHAPES_graph_labels.txt"
    labels.write_text("NaN\n" + labels.read_text().split("\n", 1)[1])
    encoder = FrozenEncoder(GraphEncoder(node_features=65, num_hidden=4), nn.Identity())
    task = read_task(encoder, Protocol(data=str(source), repeats=2))
    assert task.y.tolist() == [1, 0] * 19 + [1] and len(task.dataset) == 39
    assert "of the 39 labelled of 40 graphs" in task.rule
    assert sorted(np.concatenate([draw.test for draw in task.draws[:10]]).tolist()) == list(range(39))
    labels.write_text("NaN\n" * 40)
    with pytest.raises(ContrastiveError, match="has no labels"):
        read_task(encoder, Protocol(data=str(source)))


def test_categories_without_an_encoder_are_counted_and_not_added_up():
    x = torch.tensor([[2, 0], [0, 1], [2, 1], [1, 0]])
    graphs = GraphBatch.from_edges([(0, 1)], x, ptr=[0, 3, 3, 4])
    raw = raw_features(GraphDataset(graphs))
    assert raw.tolist() == [[1, 0, 2, 1, 2], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0]]
    raw = raw_features(NodeDataset(GraphBatch.from_edges([], x)))
    assert raw.tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 1], [0, 0, 1, 0, 1], [0, 1, 0, 1, 0]]
    graphs = graphs.with_features(x=x.float())
    raw = raw_features(GraphDataset(graphs))
    assert raw.tolist() == [[4, 2], [0, 0], [1, 0]]


def test_nodes_are_trained_on_behind_the_preprocessing():
    """As frozen features are computed; what is predicted would else be of other inputs than what is saved."""
    graph = GraphBatch.from_edges([(0, 1), (1, 2)], torch.eye(3), undirected=True)
    nodes, y = NodeDataset(graph, torch.tensor([0, 1, 0])), np.array([0, 1, 0])
    task = Task("nodes", nodes, y, ["a", "b"], [Draw(*np.eye(3, dtype=np.int64))], "mine")
    torch.manual_seed(0)
    encoder = FrozenEncoder(NodeEncoder(node_features=3, num_hidden=16), PPRDiffusion())
    h = task.forward(encoder.encoder, np.array([2, 0]), lambda x, _: encoder.preprocess(x))
    torch.testing.assert_close(h, encoder(graph)[[2, 0]])
    assert not torch.equal(h, encoder.encoder(graph)[[2, 0]])


def test_an_empty_part_is_named(tmp_path):
    source = tmp_path / "four.npz"
    np.savez(source, edges=[[0, 1], [1, 2]], x=np.eye(4, 3, dtype=np.float32), y=[0, 1, 0, 1])
    encoder = FrozenEncoder(NodeEncoder(node_features=3, num_hidden=4), nn.Identity())
    with pytest.raises(ContrastiveError, match=r"npz: no labelled nodes are for training \(20 random splits"):
        read_task(encoder, Protocol(data=str(source)))


def test_nodes_from_the_command_line(command, tmp_path):
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 150)
    src, dst = generator.integers(0, 150, (2, 1500))
    kept = (y[src] == y[dst]) | (generator.random(1500) < 0.05)
    x = np.eye(3)[y] + generator.random((150, 3))
    source, run = tmp_path / "nodes.npz", tmp_path / "run"
    np.savez(source, edges=np.stack([src, dst], 1)[kept], x=x.astype(np.float32), y=y)
    done = command(
        "pretrain", "--config", "configs/node/grace.yaml", "--run_dir", run, "--wandb", "off",
        "--data.source", source,
        "--model.encoder.node_features", 3, "--data.batch_size", 50, "--data.fanouts", "[5, 5]",
        "--data.steps_per_epoch", 5, "--trainer.max_epochs", 4,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = command("probe", run, "--repeats", 3, "--split", "random")
    assert done.returncode == 0, done.stderr
    rows = json.loads((run / "results" / "probe-split=random-repeats=3.json").read_text())["rows"]
    assert rows[0]["accuracy_mean"] > 0.8 and len(rows[0]["draws"]) == 3


def cross_validated(h, y):
    """The svm's test accuracies and inner validation accuracies in ten folds."""
    draws = list(folds(y, Protocol(""), deal=0))
    predictions = [predict_svm(h, y, draw, "classes") for draw in draws]
    tested = [float((p.score.argmax(1) == y[d.test]).mean()) for p, d in zip(predictions, draws)]
    return np.mean(tested), np.mean([p.val for p in predictions])


def test_a_separable_set_is_learnt_and_noise_is_not():
    h, y = make_classification(200, 10, n_informative=8, class_sep=3.0, random_state=0)
    assert cross_validated(h, y)[0] > 0.93
    test, inner = cross_validated(np.random.default_rng(0).standard_normal((200, 10)), y)
    assert 0.35 < test < 0.65 and inner < 0.68
    draw = next(folds(y, Protocol(""), deal=0))
    with pytest.raises(ContrastiveError, match="needs 5 labels of each class"):
        predict_svm(h, y, draw._replace(fit=draw.fit[:6], val=draw.fit[:0]), "classes")


def test_the_svm_is_scikit_learns_on_compressed_features():
    h, y = make_classification(120, 6, n_informative=4, n_classes=3, random_state=0)
    h = np.sinh(2 * h)  # long tails
    draw = next(folds(y, Protocol(""), deal=0))
    ours = predict_svm(h, y, draw, "classes")
    train = np.sort(np.concatenate([draw.fit, draw.val]))
    signed_log = FunctionTransformer(lambda x: np.copysign(np.log(1 + abs(x)), x))
    model = make_pipeline(signed_log, StandardScaler(), SVC(C=ours.chosen["C"], gamma="scale"))
    margins = model.fit(h[train], y[train]).decision_function(h[draw.test])
    np.testing.assert_allclose(ours.score, margins, atol=2e-3)  # the tolerance of its solver
    plain = make_pipeline(StandardScaler(), SVC()).fit(h[train], y[train])
    assert ours.val > cross_val_score(plain, h[train], y[train]).mean() + 0.05  # which the tails mislead


def test_the_order_of_a_file_says_nothing_of_its_inner_score():
    """Graphs in the order of what tells them apart: unshuffled inner folds would each lack a part of it."""
    rng = np.random.default_rng(0)
    place = np.sort(rng.uniform(0, 8, 240))
    h, y = np.stack([np.cos(place), np.sin(place), place], axis=1), (np.floor(2 * place) % 2).astype(int)
    order = rng.permutation(240)
    inner = [cross_validated(h[o], y[o])[1] for o in (np.arange(240), order)]
    assert abs(inner[0] - inner[1]) < 0.02 and inner[0] > 0.9


def test_folds_test_every_graph_once():
    y = np.random.default_rng(0).integers(0, 3, 200)
    draws = list(folds(y, Protocol(""), deal=0))
    assert sorted(np.concatenate([draw.test for draw in draws])) == list(range(200))
    assert all(len(set(np.concatenate(draw))) == 200 for draw in draws)


def test_a_node_probe_is_scikit_learns_at_the_c_it_chose():
    h, y = make_classification(400, 12, n_informative=8, n_classes=3, random_state=0)
    draw = next(random_splits(400, num_splits=1))
    strengths = [10.0**k for k in range(-2, 6)]
    result = predict_linear(h, y, draw, "classes", regularisations=strengths, unit_length=True)
    model = LogisticRegression(C=result.chosen["C"], max_iter=2000).fit(normalize(h)[draw.fit], y[draw.fit])
    accuracy = (result.score.argmax(1) == y[draw.test]).mean()
    assert abs(model.score(normalize(h)[draw.test], y[draw.test]) - accuracy) < 0.02
    assert abs(model.score(normalize(h)[draw.val], y[draw.val]) - result.val) < 0.03


def test_random_splits_cover_the_nodes_once():
    splits = list(random_splits(100, num_splits=3))
    assert [len(part) for part in splits[0]] == [10, 10, 80]
    assert all(sorted(np.concatenate(split)) == list(range(100)) for split in splits)
    assert not np.array_equal(splits[0][0], splits[1][0])
