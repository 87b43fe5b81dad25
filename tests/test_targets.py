"""Classes, labels with blanks and values of images, graphs and nodes in files; molecules: test_probe.py."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.preprocessing import StandardScaler
from torch import nn

from contrastive import FeatureExtractor
from contrastive.callbacks import neighbour_metric
from contrastive.cli import main
from contrastive.data.images import read_images
from contrastive.data.node_labels import targets_of
from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluate import evaluate_all
from contrastive.evaluation.protocol import Finetuning, Protocol
from contrastive.evaluation.tasks import read_task
from contrastive.features import FrozenEncoder, load_encoder
from encoders.graph import GraphEncoder, NodeEncoder

pytestmark = pytest.mark.usefixtures("own_cache")

QUICK = Finetuning(num_epochs=6, min_steps=60, batch_size=32, lr=1e-2)
LONGER = Finetuning(num_epochs=10, min_steps=200, batch_size=32, lr=3e-3)  # until nothing hangs on luck


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """400 digits as files: whether one is even, the same with blanks, and half of it."""
    folder, digits = tmp_path_factory.mktemp("images"), read_images("digits", "train")
    rng = np.random.default_rng(0)
    with (folder / "t.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "even", "sparse", "half"])
        for i in range(400):
            Image.fromarray(digits.images[i, 0].numpy()).save(folder / f"{i}.png")
            even = int(digits.labels[i] % 2 == 0)
            sparse = even if rng.random() < 0.6 else ""
            writer.writerow([f"{i}.png", even, sparse, float(digits.labels[i]) / 2])
    return folder / "t.csv"


def evaluated(encoder, protocol):
    task = read_task(encoder, protocol)
    (evaluation,) = evaluate_all({"pretrained": encoder}, ["pretrained"], task, protocol)
    return task, evaluation, evaluation.row()


@pytest.mark.parametrize("method", ["linear", "knn", "finetune", "scratch"])
@pytest.mark.parametrize("targets", [("even",), ("even", "sparse"), ("half",)])
def test_images_of_a_table(digits_run, table, targets, method):
    trained = method in ("finetune", "scratch")
    finetuning = LONGER if trained and targets == ("half",) else QUICK
    protocol = Protocol(str(table), method, targets, k=5, finetuning=finetuning)
    task, _, row = evaluated(load_encoder(digits_run), protocol)
    assert task.names == list(targets) and len(task.y) == 400 and task.y.shape[1] == len(targets)
    assert task.kind == ("values" if targets == ("half",) else "labels")
    bar = 0.65 if trained else 0.4
    assert row["r2_mean"] > bar if "half" in targets else row["roc_auc_mean"] > 0.75


def test_values_of_images_by_the_command_are_scikit_learns(digits_run, table, tmp_path):
    out = tmp_path / "out.json"
    options = ["--data", str(table), "--targets", "half", "--output", str(out), "--untrained", "false"]
    assert main(["probe", str(digits_run), *options]) == 0
    row = json.loads(out.read_text())["rows"][0]
    task = read_task(load_encoder(digits_run), Protocol(str(table), targets=("half",)))
    (draw,) = task.draws
    h = FeatureExtractor(digits_run).transform(task.dataset.images.numpy())
    h = StandardScaler().fit(np.delete(h, draw.test, axis=0)).transform(h)
    model = Ridge(alpha=1 / row["chosen"][0]["C"]).fit(h[draw.fit], task.y[draw.fit, 0])
    expected = root_mean_squared_error(task.y[draw.test, 0], model.predict(h[draw.test]))
    assert row["rmse_mean"] == pytest.approx(expected, rel=1e-3)
    assert row["rmse_ci95"][0] < row["rmse_mean"] < row["rmse_ci95"][1]
    assert main(["probe", "--from", str(out)]) == 0


@pytest.mark.parametrize(
    "header,cell,targets,message",
    [
        ("path,ink", "much", "ink", "t.csv, line 2: ink is 'much', expected a number or a blank"),
        ("path,ink", "1", "oil", "t.csv has no column 'oil'; its columns are path, ink"),
    ],
)
def test_a_table_that_is_wrong_is_named(digits_run, header, cell, targets, message, tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(f"{header}\na.png,{cell}\n")
    assert main(["probe", str(digits_run), "--data", str(tmp_path / "t.csv"), "--targets", targets]) == 1
    assert message in capsys.readouterr().err
    assert main(["probe", str(digits_run), "--data", "digits", "--targets", targets]) == 1
    assert "targets need a .csv file" in capsys.readouterr().err


def test_columns_of_labels_in_an_npz_are_targets(digits_run, tmp_path):
    digits = read_images("digits", "train")
    y = torch.stack([digits.labels % 2, digits.labels // 5], dim=1).numpy()
    arrays = {"train_images": digits.images[:300, 0], "train_labels": y[:300]}
    arrays |= {"test_images": digits.images[300:500, 0], "test_labels": y[300:500]}
    np.savez(tmp_path / "m.npz", **{key: np.asarray(value) for key, value in arrays.items()})
    task, _, row = evaluated(load_encoder(digits_run), Protocol(str(tmp_path / "m.npz")))
    assert task.kind == "labels" and len(task.draws[0].test) == 200 and row["roc_auc_mean"] > 0.85


def graph_encoder(cls, data, **arguments):
    torch.manual_seed(0)
    network = cls(num_hidden=16, num_layers=2, **arguments)
    config = {"data": {"class_path": data, "init_args": {"node_features": "degree", "max_degree": 3}}}
    return FrozenEncoder(network, nn.Identity(), config)


@pytest.mark.parametrize("method", ["linear", "knn", "finetune"])
def test_values_of_graphs_in_a_tudataset(tmp_path, method):
    """Paths of 3 to 12 nodes, and how many there are."""
    sizes = np.random.default_rng(0).integers(3, 13, 120)
    starts, pairs = np.concatenate([[0], sizes.cumsum()]), []
    for start, size in zip(starts, sizes):
        for i in range(start + 1, start + size):
            pairs += [(i, i + 1), (i + 1, i)]
    texts = {
        "A": pairs,
        "graph_indicator": [(g + 1,) for g, size in enumerate(sizes) for _ in range(size)],
        "graph_attributes": [(size / 2,) for size in sizes],
    }
    for name, rows in texts.items():
        text = "".join(", ".join(map(str, row)) + "\n" for row in rows)
        (tmp_path / f"P_{name}.txt").write_text(text)
    encoder = graph_encoder(GraphEncoder, "contrastive.data.graphs.GraphData", node_features=4)
    task, _, row = evaluated(encoder, Protocol(str(tmp_path), method, k=3, finetuning=QUICK))
    assert task.kind == "values" and task.names == ["target 0"] and row["r2_mean"] > 0.8


def test_labels_with_blanks_of_graphs_in_a_file(tmp_path):
    dgl = pytest.importorskip("dgl")
    sizes = np.random.default_rng(0).integers(3, 13, 120)
    y = torch.tensor([[float(size > 7), float(size > 9) if size > 4 else float("nan")] for size in sizes])
    paths = [dgl.to_bidirected(dgl.graph((range(size - 1), range(1, size)))) for size in sizes]
    dgl.save_graphs(str(tmp_path / "g.bin"), paths, {"labels": y})
    encoder = graph_encoder(GraphEncoder, "contrastive.data.graphs.GraphData", node_features=4)
    task, evaluation, _ = evaluated(encoder, Protocol(str(tmp_path / "g.bin")))
    assert task.kind == "labels" and evaluation.row()["roc_auc_mean"] > 0.8


@pytest.mark.parametrize("method", ["linear", "knn", "finetune"])
def test_values_and_labels_of_nodes(tmp_path, method):
    """The mean of a node's neighbourhood, and whether it is above a half; half of the second is unknown."""
    rng, num = np.random.default_rng(0), 300
    x, edges = rng.random((num, 4)).astype(np.float32), rng.integers(0, num, (600, 2))
    near = np.eye(num)
    near[edges[:, 0], edges[:, 1]] = near[edges[:, 1], edges[:, 0]] = 1
    mean = near @ x[:, 0] / near.sum(1)
    high = np.where(rng.random(num) < 0.5, np.nan, mean > np.median(mean))
    encoder = graph_encoder(NodeEncoder, "contrastive.data.nodes.NodeData", node_features=4, layer="gcn")
    encoder.config["data"]["init_args"]["normalize_features"] = False
    settings = Finetuning(num_epochs=4, min_steps=100, lr=1e-2)
    for y, metric in ((mean, "r2_mean"), (np.stack([mean > np.median(mean), high], axis=1), "roc_auc_mean")):
        np.savez(tmp_path / "g.npz", edges=edges, x=x, y=y)
        protocol = Protocol(str(tmp_path / "g.npz"), method, repeats=2, k=15, finetuning=settings)
        task, _, row = evaluated(encoder, protocol)
        assert task.kind == ("values" if metric == "r2_mean" else "labels") and len(task.draws) == 2
        assert row[metric] > (0.0 if metric == "r2_mean" else 0.6)


@pytest.mark.parametrize("method", ["linear", "knn", "finetune"])
@pytest.mark.parametrize("kind", ["numbers", "blanks", "names"])
def test_nodes_without_a_label_are_in_no_probe(tmp_path, method, kind):
    rng, num = np.random.default_rng(0), 300
    y = rng.integers(0, 3, num)
    x, edges = np.eye(3, 8, dtype=np.float32)[y] + 0.1, rng.integers(0, num, (100, 2))
    unknown = rng.random(num) < 0.5
    names = np.where(unknown, "", np.array(["a", "b", "c"])[y])
    given = {"numbers": np.where(unknown, -1, y), "blanks": np.where(unknown, np.nan, y), "names": names}
    np.savez(tmp_path / "g.npz", edges=edges, x=x, y=given[kind])
    encoder = graph_encoder(NodeEncoder, "contrastive.data.nodes.NodeData", node_features=8, layer="gcn")
    settings = Finetuning(num_epochs=2, min_steps=50, lr=1e-2)
    task, _, row = evaluated(
        encoder, Protocol(str(tmp_path / "g.npz"), method, repeats=2, k=5, finetuning=settings)
    )
    assert task.kind == "classes" and len(task.names) == 3 and row["accuracy_mean"] > 0.5
    for draw in task.draws:
        assert sorted(np.concatenate(draw)) == np.flatnonzero(~unknown).tolist()
    assert task.rule.endswith(f"of the {(~unknown).sum()} labelled of {num} nodes")


def test_nodes_of_no_known_label_or_of_one_class_have_no_probe(tmp_path):
    encoder = graph_encoder(NodeEncoder, "contrastive.data.nodes.NodeData", node_features=2, layer="gcn")
    for y, message in (([-1] * 40, "has no labels"), ([-1, 1] * 20, r"has one class only \(1\)")):
        np.savez(tmp_path / "g.npz", edges=[[0, 1]], x=np.ones((40, 2)), y=y)
        with pytest.raises(ContrastiveError, match=message):
            read_task(encoder, Protocol(str(tmp_path / "g.npz")))


def test_what_labels_of_nodes_are():
    for y in ([0, 2, 1], [[0], [2], [1]], [0.0, 2.0, 1.0]):
        assert (
            targets_of(np.array(y)).tolist() == [0, 2, 1] and not targets_of(np.array(y)).is_floating_point()
        )
    for y in (np.array([0, -1, 1]), np.array([0.0, np.nan, 1.0]), np.array([[0.0], [-1.0], [1.0]])):
        assert targets_of(y).tolist() == [0, -1, 1] and not targets_of(y).is_floating_point()
    assert targets_of(np.array([0, 255], dtype=np.uint8)).tolist() == [0, 255]
    values = targets_of(np.array([0.5, np.nan, np.inf]))
    assert values.shape == (3, 1) and values[0] == 0.5 and values[1:].isnan().all()
    assert targets_of(np.array([[0, 1], [1, 1]])).tolist() == [[0, 1], [1, 1]]


def test_the_online_neighbours_take_every_kind_of_target():
    torch.manual_seed(0)
    h, q = torch.randn(300, 2), torch.randn(100, 2)
    classes = [(x[:, 0] > 0).long() for x in (h, q)]
    name, value = neighbour_metric(h, classes[0], q, classes[1], k=5)
    assert name == "knn_accuracy" and value > 0.9
    labels = [torch.stack([(x[:, 0] > 0), (x[:, 1] > 0)], dim=1).float() for x in (h, q)]
    labels[0][::2, 1] = labels[1][::3, 0] = torch.nan
    name, value = neighbour_metric(h, labels[0], q, labels[1], k=5)
    assert name == "knn_roc_auc" and value > 0.9
    angles = [torch.atan2(x[:, 1], x[:, 0]).sin()[:, None] for x in (h, q)]
    name, value = neighbour_metric(h, angles[0], q, angles[1], k=5)
    assert name == "knn_rmse" and value < 0.2


def test_training_watches_several_targets(tmp_path, digits_run):
    """A table of labels of several columns in MedMNIST's form, from the command line."""
    digits = read_images("digits", "train")
    y = torch.stack([digits.labels % 2, digits.labels // 5], dim=1)
    arrays = {"train_images": digits.images[:, 0].numpy(), "train_labels": y.numpy()}
    np.savez(tmp_path / "m.npz", **arrays)
    recipe = ["--config", "configs/image/simclr_digits.yaml", "--wandb", "off", "--trainer.max_epochs", "1"]
    options = ["--data.init_args.source", str(tmp_path / "m.npz"), "--run_dir", str(tmp_path / "run")]
    assert main(["pretrain", *recipe, *options]) == 0
    with (tmp_path / "run" / "metrics.csv").open(newline="") as stream:
        values = [row["knn_roc_auc"] for row in csv.DictReader(stream) if row["knn_roc_auc"]]
    assert len(values) == 2 and all(0.5 < float(value) <= 1 for value in values)


def test_a_table_of_molecules_is_no_table_of_graphs(tmp_path):
    encoder = graph_encoder(GraphEncoder, "contrastive.data.graphs.GraphData", node_features=4)
    with pytest.raises(ContrastiveError, match="has no columns"):
        read_task(encoder, Protocol(str(tmp_path), targets=("a",)))
