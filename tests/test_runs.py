"""The runs of an evaluation and its results: how they are called, what is refused before the work."""

import pytest

from contrastive.cli import main
from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluate import evaluate_all
from contrastive.evaluation.protocol import Protocol
from contrastive.evaluation.runs import result_name, run_names
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


def test_other_data_and_methods_have_results_of_their_own(digits_run):
    encoder = load_encoder(digits_run)

    def name(command, usual="linear", **settings):
        return result_name(command, encoder, Protocol(**{"data": "digits", **settings}), usual)

    assert name("probe") == "probe" and name("probe", "svm") == "probe-linear"
    assert name("label_efficiency", data="a/pets.csv.gz") == "label_efficiency-pets"
    assert name("compare", data="hf:x/y", method="knn") == "compare-knn-y"


def test_names_of_runs_in_a_table():
    assert run_names(["a/x", "b/y"]) == ["x", "y"] and run_names(["a/x", "b/x"]) == ["a/x", "b/x"]
    assert run_names(["a/raw", "b/untrained"]) == ["run raw", "run untrained"]  # which rows are called too


def test_runs_that_cannot_be_judged_alike(digits_run, tmp_path, capsys):
    encoder = load_encoder(digits_run)
    data = {**encoder.config["data"], "init_args": {**encoder.data, "image_size": 16}}
    (tmp_path / "larger").mkdir()
    larger = FrozenEncoder(encoder.encoder, encoder.preprocess, {**encoder.config, "data": data})
    write_safetensors(larger, tmp_path / "larger", None)
    assert main(["probe", str(digits_run), str(tmp_path / "larger")]) == 1
    assert f"larger was trained with image_size 16, {digits_run} with 8" in capsys.readouterr().err
    assert main(["compare", str(digits_run), str(digits_run)]) == 1
    assert f"{digits_run} is named twice" in capsys.readouterr().err


def test_a_recorded_run_that_is_not_named_is_not_taken_for_the_untrained_one(digits_run):
    encoder, protocol = load_encoder(digits_run), Protocol("digits")
    task = read_task(encoder, protocol)
    with pytest.raises(ContrastiveError, match="no run is called old, as one was; these are pretrained"):
        evaluate_all({"pretrained": encoder}, ["old"], task, protocol)
