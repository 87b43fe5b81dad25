"""``contrastive compare``, ``label-efficiency`` and ``inspect``."""

import json
import re

import numpy as np
import pytest

from contrastive.cli import main
from contrastive.export import write_safetensors

pytestmark = pytest.mark.usefixtures("own_cache")


def test_compare_label_efficiency_and_inspect(digits_run, tmp_path, capsys):
    other = tmp_path / "other.ckpt"
    other.write_bytes((digits_run / "checkpoints" / "last.ckpt").read_bytes())
    assert (
        main(
            ["compare", str(digits_run), str(other), "--method", "knn", "--output", str(tmp_path / "c.json")]
        )
        == 0
    )
    assert "no difference is shown" in capsys.readouterr().out
    tests = json.loads((tmp_path / "c.json").read_text())["difference"]
    assert tests["difference"] == 0 and tests["p_mcnemar"] == 1 and tests["ci95"] == [0, 0]
    assert main(["compare", str(digits_run)]) == 1 and "two runs" in capsys.readouterr().err

    options = ["--labels-per-class", "1,all", "--repeats", "3", "--train-repeats", "1", "--finetune"]
    options += ["--finetuning.num-epochs", "1", "--finetuning.min-steps", "5", "--output", str(tmp_path)]
    assert main(["label-efficiency", str(digits_run), *options]) == 0
    name = "label_efficiency-repeats=3-finetuning.num_epochs=1-finetuning.min_steps=5-labels_per_class=1,all"
    name += "-train_repeats=1-finetune=True"
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    names = ["pretrained", "untrained", "raw", "scratch", "pretrained, fine-tuned"]
    assert [(row["representation"], row["labels_per_class"]) for row in rows] == [
        (name, number) for number in (1, None) for name in names
    ]
    assert [row["num_draws"] for row in rows] == [3, 3, 3, 1, 1, 1, 1, 1, 1, 1]
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert main(["label-efficiency", str(digits_run), "--labels-per-class", "1,x"]) == 1

    assert main(["inspect", str(digits_run), "--num-items", "300", "--output", str(tmp_path / "i.json")]) == 0
    rows = json.loads((tmp_path / "i.json").read_text())["rows"]
    assert rows.keys() == {"pretrained", "untrained"} and rows["pretrained"]["uniformity"] < 0


def test_numbers_of_labels_that_are_not_there_are_left_out(digits_run, tmp_path, monkeypatch, caplog, capsys):
    options = ["--train-repeats", "0", "--repeats", "2", "--output", str(tmp_path), "--labels-per-class"]
    assert main(["label-efficiency", str(digits_run), *options, "2,2,500,all,600"]) == 0
    assert re.search(r"a class has 1\d\d? training labels; left out: 500, 600", caplog.text)
    (file,) = tmp_path.glob("*.json")
    numbers = [row["labels_per_class"] for row in json.loads(file.read_text())["rows"]]
    assert numbers == [2] * 3 + [None] * 3
    monkeypatch.setattr("contrastive.evaluation.label_efficiency.evaluate_all", lambda *_: pytest.fail("fit"))
    assert main(["label-efficiency", str(digits_run), *options, "500"]) == 1
    assert "fewer than the 500 asked for" in capsys.readouterr().err


def test_nodes_are_inspected(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "g.npz", edges=rng.integers(0, 60, (150, 2)), x=rng.random((60, 5)), y=np.arange(60) % 3
    )
    small = {"data.source": tmp_path / "g.npz", "model.encoder.node_features": 5, "trainer.max_epochs": 1}
    small |= {
        "model.encoder.num_hidden": 8,
        "data.batch_size": 32,
        "run_dir": tmp_path / "run",
        "wandb": "off",
    }
    options = [f"--{key}={value}" for key, value in small.items()]
    assert main(["pretrain", "--config", "configs/node/grace.yaml", *options]) == 0
    assert main(["inspect", str(tmp_path / "run"), "--num-items", "40"]) == 0
    rows = json.loads((tmp_path / "run" / "results" / "inspect-num_items=40.json").read_text())["rows"]
    assert 0 < rows["pretrained"]["alignment"] < 2 and rows["untrained"]["uniformity"] < 0


def test_quantities_have_no_labels_a_class(molecule_encoder, molecule_table, tmp_path, capsys):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    (tmp_path / "run").mkdir()
    write_safetensors(molecule_encoder, tmp_path / "run", None)
    options = ["--data", str(molecule_table), "--targets", "carbons", "--labels-per-class", "all"]
    assert main(["label-efficiency", str(tmp_path / "run"), *options]) == 1
    assert "has no classes to count labels by" in capsys.readouterr().err
