"""The runs of an evaluation and its results: how they are called, what is refused before the work."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from contrastive.cli import main
from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluate import evaluate_all
from contrastive.evaluation.protocol import Finetuning, Protocol
from contrastive.evaluation.runs import result_file, result_name, run_names
from contrastive.evaluation.tasks import read_task
from contrastive.export import write_safetensors
from contrastive.features import FrozenEncoder, load_encoder

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(
    "name,where",
    [
        ("probe", "--output"), ("probe", "--save"), ("compare", "--output"), ("label-efficiency", "--output"),
        ("inspect", "--output"), ("neighbours", "--output"), ("embed", "--output"), ("embed", "--out"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_before_the_work(name, where, digits_run, monkeypatch, capsys):
    for module in ("evaluation.probe", "evaluation.compare", "evaluation.label_efficiency"):
        monkeypatch.setattr(f"contrastive.{module}.evaluate_all", lambda *_, **__: pytest.fail("evaluated"))
    monkeypatch.setattr("contrastive.evaluation.inspection.pretraining_items", lambda _: pytest.fail("read"))
    for module in ("neighbours", "embed"):
        monkeypatch.setattr(f"contrastive.{module}.read_items", lambda *_, **__: pytest.fail("read"))
    file = "/proc/x.npz" if name == "embed" else "/proc/x"
    runs = [str(digits_run), str(digits_run / "checkpoints" / "last.ckpt")]
    query = ["--query", "0"] if name == "neighbours" else []
    assert main([name, *runs[: 1 + (name == "compare")], *query, where, file]) == 1
    assert f"cannot write {file}" in capsys.readouterr().err


def test_a_folder_is_no_result_file(digits_run, tmp_path, capsys):
    assert main(["probe", str(digits_run), "--output", str(tmp_path)]) == 1
    assert "it is a folder; give another with --output" in capsys.readouterr().err


def test_what_is_not_as_usual_is_in_the_name_of_a_result(digits_run, tmp_path):
    encoder, run = load_encoder(digits_run), str(digits_run)

    def name(command, usual="linear", runs=(run,), further=None, **settings):
        protocol = Protocol(**{"data": "digits", **settings})
        return result_name(command, runs, encoder, protocol, usual, further)

    assert name("probe") == "probe" and name("probe", "svm") == "probe-linear"
    assert name("label_efficiency", data="a/pets.csv.gz") == "label_efficiency-pets"
    assert name("compare", data="hf:x/y", method="knn") == "compare-knn-y"
    assert name("compare", runs=(run, "runs/other")) == "compare-other"
    assert name("probe", labels_per_class=5, repeats=3) == "probe-labels_per_class=5-repeats=3"
    assert name("probe", targets=("a b", "c"), split="random") == "probe-targets=a_b,c-split=random"
    assert name("probe", seed=1, finetuning=Finetuning(lr=0.01)) == "probe-seed=1-finetuning.lr=0.01"
    assert name("label_efficiency", further={"finetune": True}) == "label_efficiency-finetune=True"
    checkpoint = digits_run / "checkpoints" / "last.ckpt"
    assert name("probe", runs=(str(checkpoint),)) == "probe"
    earlier = checkpoint.with_name("step-1.ckpt")
    earlier.touch()
    assert name("probe", runs=(str(earlier),)) == "probe-step-1"
    earlier.unlink()
    many = [name("probe", targets=tuple(f"täglich {i}" for i in range(n))) for n in (616, 617)]
    assert many[0] != many[1] and all(len(f"{n}.json".encode()) < 200 for n in many)


def test_a_result_does_not_replace_one_of_another_question(digits_run, tmp_path, capsys):
    run, folder = str(digits_run), digits_run / "results"
    for options in ([], ["--labels-per-class", "2"], ["--labels-per-class", "3"], ["--seed", "1"]):
        assert main(["probe", run, "--leaks", "false", *options]) == 0
    names = ("probe", "probe-labels_per_class=2", "probe-labels_per_class=3", "probe-seed=1")
    held = [json.loads((folder / f"{name}.json").read_text())["protocol"] for name in names]
    assert [(p["labels_per_class"], p["seed"]) for p in held] == [(None, 0), (2, 0), (3, 0), (None, 1)]
    before = (folder / "probe.json").read_bytes()
    for rows in (["untrained", "false"], ["raw", "true"]):  # fewer, or more, than there
        assert main(["probe", run, "--leaks", "false", f"--{rows[0]}", rows[1]]) == 0
    others = [
        json.loads((folder / f"probe-{name}.json").read_text()) for name in ("untrained=False", "raw=True")
    ]
    assert [len(other["rows"]) for other in others] == [1, 3]
    assert (folder / "probe.json").read_bytes() == before
    for name in ("a", "b"):
        write_medmnist(tmp_path / name / "pets.npz")
    probe = ["probe", run, "--data"]
    assert main([*probe, str(tmp_path / "a" / "pets.npz")]) == 0
    assert main([*probe, str(tmp_path / "b" / ".." / "a" / "pets.npz")]) == 0  # the same question
    before = (folder / "probe-pets.json").read_bytes()
    assert main([*probe, str(tmp_path / "b" / "pets.npz")]) == 1
    assert "probe-pets.json is the result of another question, with data " in capsys.readouterr().err
    assert (folder / "probe-pets.json").read_bytes() == before
    (folder / "probe-pets.json").write_text("{}")  # no result
    assert main([*probe, str(tmp_path / "b" / "pets.npz")]) == 0


def test_a_folder_of_results_keeps_those_of_each_run(tmp_path):
    protocol = Protocol("digits")
    file = result_file("label_efficiency", ["runs/a"], protocol, tmp_path)
    file.write_text(json.dumps({"runs": ["runs/a"], "protocol": protocol.to_json()}))
    assert result_file("label_efficiency", ["runs/b/../a"], protocol, tmp_path) == file
    with pytest.raises(ContrastiveError, match="another question, with runs .*runs/a.* instead of .*runs/b"):
        result_file("label_efficiency", ["runs/b"], protocol, tmp_path)


def write_medmnist(file):
    """Some of the digits, as a source of three splits."""
    digits, arrays = load_digits(), {}
    for split, part in {"train": slice(200), "val": slice(200, 250), "test": slice(250, 350)}.items():
        arrays[f"{split}_images"] = (15 * digits.images[part]).astype(np.uint8)
        arrays[f"{split}_labels"] = digits.target[part, None]
    file.parent.mkdir()
    np.savez(file, **arrays)


def test_names_of_runs_in_a_table():
    assert run_names(["a/x", "b/y"]) == ["x", "y"] and run_names(["a/x", "b/x"]) == ["a/x", "b/x"]
    assert run_names([".", "b/y/"]) == [Path.cwd().name, "y"]
    assert run_names(["a/raw", "b/untrained"]) == ["run raw", "run untrained"]  # which rows are called too


def test_runs_that_cannot_be_judged_alike(digits_run, molecule_encoder, tmp_path, capsys):
    encoder = load_encoder(digits_run)
    data = {**encoder.config["data"], "init_args": {**encoder.data, "image_size": 16}}
    (tmp_path / "larger").mkdir()
    larger = FrozenEncoder(encoder.encoder, encoder.preprocess, {**encoder.config, "data": data})
    write_safetensors(larger, tmp_path / "larger", None)
    assert main(["probe", str(digits_run), str(tmp_path / "larger")]) == 1
    assert f"larger was trained with image_size 16, {digits_run} with 8" in capsys.readouterr().err
    (tmp_path / "graphs").mkdir()
    write_safetensors(molecule_encoder, tmp_path / "graphs", None)
    assert main(["probe", str(digits_run), str(tmp_path / "graphs")]) == 1
    assert f"graphs was trained with items graphs, {digits_run} with images" in capsys.readouterr().err
    assert main(["compare", str(digits_run), str(digits_run)]) == 1
    assert f"{digits_run} is named twice" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["probe", "compare"])
def test_labels_are_counted_in_one_way(name, digits_run, capsys):
    runs = [str(digits_run), str(digits_run / "checkpoints" / "last.ckpt")]
    number = ["--labels-per-class", "2", "--fraction", "0.1"]
    assert main([name, *runs[: 1 + (name == "compare")], *number]) == 1
    assert "give --labels-per-class or --fraction, not both" in capsys.readouterr().err


def test_a_recorded_run_that_is_not_named_is_not_taken_for_the_untrained_one(digits_run):
    encoder, protocol = load_encoder(digits_run), Protocol("digits")
    task = read_task(encoder, protocol)
    with pytest.raises(ContrastiveError, match="no run is called old, as one was; these are pretrained"):
        evaluate_all({"pretrained": encoder}, ["old"], task, protocol)
