"""Test items that pretraining or training has seen are counted."""

import json

import numpy as np
import pytest

from contrastive.cli import main
from contrastive.data.images import ImageData
from contrastive.evaluation import leaks
from contrastive.evaluation.leaks import canonical, keys_of, pretraining_items
from contrastive.evaluation.protocol import Protocol
from contrastive.evaluation.tasks import read_task
from contrastive.export import write_safetensors
from contrastive.features import FrozenEncoder, load_encoder
from encoders.graph_batch import GraphBatch

pytestmark = pytest.mark.usefixtures("own_cache")
DIGITS = "configs/image/simclr_digits.yaml"


def test_a_leak_is_counted(digits_run, tmp_path, capsys):
    """Pretraining saw the training digits: a target whose test split holds some of them must be told so."""
    from torchvision.utils import save_image

    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits"))
    training = task.dataset.images[:40]
    unseen = task.dataset.images[-40:]
    labels = np.r_[task.y[:40], task.y[-40:]] % 2
    for split, items in (("train", range(0, 80)), ("test", [*range(0, 10), *range(40, 70)])):
        for i in items:
            folder = tmp_path / "data" / split / str(labels[i])
            folder.mkdir(parents=True, exist_ok=True)
            image = training[i] if i < 40 else unseen[i - 40]
            save_image(image.float() / 255, folder / f"{i}.png")
    assert (
        main(
            ["probe", str(digits_run), "--data", str(tmp_path / "data"), "--output", str(tmp_path / "x.json")]
        )
        == 0
    )
    found = json.loads((tmp_path / "x.json").read_text())["leaks"]
    assert found["in_pretraining"] == 10 and found["num_test"] == 40
    assert found["in_training"] == 40  # the test digits are all in this training folder too
    assert "10 of 40 test images" in capsys.readouterr().out
    changes = {"source": str(tmp_path / "data"), "image_size": 8, "channels": 1, "train_subset": None}
    data = {**encoder.config["data"], "init_args": {**encoder.data, **changes}}
    (tmp_path / "other").mkdir()
    other = FrozenEncoder(encoder.encoder, encoder.preprocess, {**encoder.config, "data": data})
    write_safetensors(other, tmp_path / "other", None)
    options = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "x.json"), "--untrained", "false"]
    assert main(["probe", str(digits_run), str(tmp_path / "other"), *options]) == 0
    runs = json.loads((tmp_path / "x.json").read_text())["leaks"]["runs"]
    assert [runs[str(run)]["in_pretraining"] for run in (digits_run, tmp_path / "other")] == [10, 40]
    assert main(["compare", str(digits_run), str(tmp_path / "other"), *options[:4]]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["leaks"]["runs"] == runs
    options = [*options[:3], str(tmp_path), "--labels-per-class", "all", "--train-repeats", "0"]
    assert main(["label-efficiency", str(digits_run), *options]) == 0
    (file,) = tmp_path.glob("label_efficiency*.json")
    assert json.loads(file.read_text())["leaks"] == found


def test_what_several_runs_were_pretrained_on_is_read_once(digits_run, monkeypatch):
    encoder, read = load_encoder(digits_run), []
    monkeypatch.setattr(leaks, "pretraining_items", lambda e: read.append(e) or pretraining_items(e))

    def with_data(seed, **options):
        data = {**encoder.config["data"], "init_args": {**encoder.data, **options}}
        config = {**encoder.config, "seed_everything": seed, "data": data}
        return FrozenEncoder(encoder.encoder, encoder.preprocess, config)

    runs = {"a": encoder, "b": with_data(1, batch_size=7), "c": with_data(0, train_subset=100)}
    runs["d"] = with_data(1, train_subset=100)
    task = read_task(encoder, Protocol("digits"))
    found = leaks.report_leaks(runs, task, "digits")["runs"]
    assert read == [runs["a"], runs["c"], runs["d"]] and found["a"] == found["b"] != found["c"]


def test_the_part_that_a_run_drew_is_drawn_again_by_its_seed(tmp_path):
    for seed in (0, 1):
        options = ["--data.train_subset", "200", "--trainer.max_steps", "1", "--knn.every_n_epochs", "0"]
        folder, seeded = str(tmp_path / str(seed)), ["--seed_everything", str(seed), "--wandb", "off"]
        assert main(["pretrain", "--config", DIGITS, "--run_dir", folder, *options, *seeded]) == 0
    zero, one = (keys_of(pretraining_items(load_encoder(tmp_path / str(seed)))) for seed in (0, 1))
    drawn = ImageData("digits", train_subset=200, seed=1).read("train")
    assert set(one) == set(keys_of(drawn)) != set(zero)


def test_molecules_are_the_same_by_canonical_smiles():
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    from contrastive.data.molecules import MoleculeDataset

    assert canonical("OCC") == canonical("C(O)C") == "CCO" and canonical("not one") == "not one"
    smiles = ["OCC", "CCO", "CCN"]
    keys = keys_of(MoleculeDataset(GraphBatch.from_smiles(smiles), smiles))
    assert keys[0] == keys[1] != keys[2]


def test_canonical_smiles_are_kept(tmp_path, monkeypatch):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    from contrastive.data.molecules import MoleculeDataset

    data = MoleculeDataset(GraphBatch.from_smiles(["OCC", "CCN"]), ["OCC", "CCN"])
    assert keys_of(data) == ["CCO", "CCN"]
    with monkeypatch.context() as patched:
        patched.setattr(leaks, "canonical", lambda _: pytest.fail("made again"))
        assert keys_of(data) == ["CCO", "CCN"]
    assert keys_of(MoleculeDataset(GraphBatch.from_smiles(["OCC"]), ["OCC"])) == ["CCO"]
    (kept, _) = sorted((tmp_path / "cache").rglob("*.txt"), key=lambda file: -file.stat().st_size)
    kept.write_text("cut off")
    assert keys_of(data) == ["CCO", "CCN"]
