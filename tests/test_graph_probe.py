import json

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from contrastive.errors import ContrastiveError
from contrastive.evaluation.graphs import svm_cross_validation
from contrastive.evaluation.nodes import node_probe, random_splits


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
    assert rows.keys() == {"pretrained", "untrained", "raw"} and "10-fold" in result["protocol"]
    assert rows["pretrained"]["accuracy_mean"] > 0.9 and len(rows["raw"]["folds"]) == 10


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
    done = command("probe", run, "--repeats", 3)
    assert done.returncode == 0, done.stderr
    rows = json.loads((run / "results" / "probe.json").read_text())["rows"]
    assert rows[0]["accuracy_mean"] > 0.8 and len(rows[0]["accuracies"]) == 3


def test_a_separable_set_is_learnt_and_noise_is_not():
    h, y = make_classification(200, 10, n_informative=8, class_sep=3.0, random_state=0)
    result = svm_cross_validation(h, y)
    assert result["accuracy"] > 0.93 and len(result["folds"]) == 10
    noise = svm_cross_validation(np.random.default_rng(0).standard_normal((200, 10)), y)
    assert 0.35 < noise["accuracy"] < 0.65 and noise["val_accuracy"] < 0.68
    with pytest.raises(ContrastiveError, match="fewer graphs than the 10 folds"):
        svm_cross_validation(h[:12], y[:12])


def test_a_node_probe_is_scikit_learns_at_the_c_it_chose():
    h, y = make_classification(400, 12, n_informative=8, n_classes=3, random_state=0)
    split = next(random_splits(400, num_splits=1))
    result = node_probe(h, y, split)
    train, val, test = split
    model = LogisticRegression(C=result["c"], max_iter=2000).fit(normalize(h)[train], y[train])
    assert abs(model.score(normalize(h)[test], y[test]) - result["accuracy"]) < 0.02
    assert abs(model.score(normalize(h)[val], y[val]) - result["val_accuracy"]) < 0.03


def test_random_splits_cover_the_nodes_once():
    splits = list(random_splits(100, num_splits=3))
    assert [len(part) for part in splits[0]] == [10, 10, 80]
    assert all(sorted(np.concatenate(split)) == list(range(100)) for split in splits)
    assert not np.array_equal(splits[0][0], splits[1][0])
