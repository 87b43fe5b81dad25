"""``contrastive probe`` on every kind of item and target."""

import json

import numpy as np
import pytest
from PIL import Image

from contrastive.cli import main
from contrastive.data.images import read_images
from contrastive.evaluation.evaluate import evaluate_all
from contrastive.evaluation.protocol import Finetuning, Protocol
from contrastive.evaluation.tasks import read_task
from contrastive.features import FrozenEncoder, load_encoder

pytestmark = pytest.mark.usefixtures("own_cache")
QUICK = Finetuning(num_epochs=4, min_steps=20, batch_size=16, lr=1e-2)


def evaluated(encoder, names, protocol):
    task = read_task(encoder, protocol)
    return {e.name: e.row() for e in evaluate_all({"pretrained": encoder}, names, task, protocol)}


@pytest.mark.parametrize("method", ["linear", "knn", "finetune", "scratch"])
@pytest.mark.parametrize(
    "targets,metric", [(("oxygen",), "roc_auc"), (("oxygen", "sparse"), "roc_auc"), (("carbons",), "rmse")]
)
def test_molecules_by_every_method_and_kind_of_target(
    molecule_encoder, molecule_table, method, targets, metric
):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    protocol = Protocol(str(molecule_table), method, targets, split="random", k=3, finetuning=QUICK)
    rows = evaluated(molecule_encoder, ["pretrained", "raw"], protocol)
    assert rows.keys() == {"linear": {"pretrained", "raw"}, "knn": {"pretrained", "raw"}}.get(
        method, {"pretrained" if method == "finetune" else "scratch"}
    )
    row = next(iter(rows.values()))
    low, high = row[f"{metric}_ci95"]
    assert low <= row[f"{metric}_mean"] <= high
    assert row["roc_auc_mean"] > 0.8 if metric == "roc_auc" else row["r2_mean"] > 0.3
    again = evaluated(molecule_encoder, ["pretrained", "raw"], protocol)
    assert again == rows


def test_a_table_of_molecules_from_the_command_line(molecule_table, tmp_path):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    run = tmp_path / "run"
    small = ["--data.source", str(molecule_table), "--data.batch_size", "64", "--trainer.max_epochs", "1"]
    recipe = ["--config", "configs/molecule/graphcl_zinc.yaml", "--wandb", "off"]
    assert main(["pretrain", *recipe, *small, "--run_dir", str(run)]) == 0
    options = ["--data", str(molecule_table), "--targets", "oxygen,sparse", "--split", "random", "--raw"]
    assert main(["probe", str(run), *options]) == 0
    asked = "targets=oxygen,sparse-split=random-raw=True.json"
    result = json.loads((run / "results" / f"probe-{asked}").read_text())
    assert [row["representation"] for row in result["rows"]] == ["pretrained", "untrained", "raw"]
    assert result["task"]["names"] == ["oxygen", "sparse"]
    copy = molecule_table.rename(tmp_path / "other table.csv")  # which has a result of its own
    options[1] = str(copy)
    assert main(["probe", str(run), *options, "--method", "knn"]) == 0
    assert (run / "results" / f"probe-knn-other_table-{asked}").is_file()
    copy.rename(molecule_table)
    # the table was pretrained on as well, without its targets
    assert result["leaks"]["in_pretraining"] == result["leaks"]["num_test"]
    assert main(["probe", str(run), "--data", str(molecule_table), "--targets", "[1]"]) == 1


def test_few_labels_are_drawn_by_class_and_never_tested_on(molecule_encoder, molecule_table):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    protocol = Protocol(
        str(molecule_table), targets=("oxygen",), split="stratified", labels_per_class=4, repeats=3
    )
    task = read_task(molecule_encoder, protocol)
    assert len(task.draws) == 3
    for draw in task.draws:
        assert (np.bincount(task.y[draw.fit, 0].astype(int)) == 4).all() and len(draw.val) <= 8
        assert len({*draw.fit, *draw.val, *draw.test}) == sum(map(len, draw))
    blanks = Protocol(str(molecule_table), targets=("sparse",), split="random", labels_per_class=4)
    with pytest.raises(Exception, match="give a fraction instead"):
        read_task(molecule_encoder, blanks)
    with pytest.raises(Exception, match="--targets COLUMN"):
        read_task(
            FrozenEncoder(
                molecule_encoder.encoder,
                molecule_encoder.preprocess,
                {"data": {"class_path": "x.MoleculeData"}},
            ),
            Protocol(str(molecule_table)),
        )


def test_images_that_do_not_decode_leave_their_labels_out_too(digits_run, tmp_path, monkeypatch, capsys):
    """As of images held in memory, so of those decoded on demand, and of a run that skips its own."""
    digits = read_images("digits", "train")
    for i, (image, label) in enumerate(zip(digits.images[:120], digits.labels)):
        folder = tmp_path / "data" / ("test" if i % 3 == 0 else "train") / str(int(label) % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{i:03}.png")
    skipped = []
    for split in ("train", "test"):
        victims = sorted((tmp_path / "data" / split / "0").iterdir())[::4]
        skipped.append(f"{len(victims)} {split}")
        for victim in victims:
            victim.write_bytes(b"no image")
    said = f"; {skipped[0]}ing and {skipped[1]} images do not decode: left out"
    rows, out = [], tmp_path / "r.json"
    command = ["probe", str(digits_run), "--data", str(tmp_path / "data"), "--output", str(out), "--raw"]
    for size in (4 * 2**30, 0):  # in memory, and as of a set that is larger
        monkeypatch.setattr("contrastive.data.images._CACHE_BYTES", size)
        assert main([*command, "--skip-corrupt"]) == 0
        result = json.loads(out.read_text())
        rows.append([*result["rows"], result["task"], result["leaks"]["num_test"]])
        assert result["task"]["splits"].endswith(said) and said in capsys.readouterr().out.replace("\n", " ")
        assert main(command) == 1 and "is not a readable image" in capsys.readouterr().err
    assert rows[0] == rows[1]
    query = ["neighbours", str(digits_run), "--data", str(tmp_path / "data"), "--query", "0"]
    monkeypatch.setattr(
        FrozenEncoder, "data", {"source": str(tmp_path / "data"), "skip_corrupt": True, "image_size": 8}
    )
    assert main([*query, "--k", "200", "--output", str(tmp_path / "n")]) == 0
    found = json.loads((tmp_path / "n" / "neighbours.json").read_text())
    assert len({near["item"] for near in found["rows"][0]["neighbours"]}) == found["num_items"] - 1
    assert not any(victim.name in json.dumps(found) for victim in victims)


def test_a_result_is_repeated_from_its_file(digits_run, tmp_path, capsys):
    file = tmp_path / "knn.json"
    options = [
        "--method",
        "knn",
        "--labels-per-class",
        "5",
        "--repeats",
        "2",
        "--k",
        "3",
        "--output",
        str(file),
    ]
    assert main(["probe", str(digits_run), *options]) == 0
    assert main(["probe", "--from", str(file)]) == 0
    assert "the same numbers" in capsys.readouterr().out
    assert main(["probe", "--from", str(file), "--k", "5", "--raw", "--cache", "false"]) == 1
    assert f"--from repeats what {file} records; leave out --k, --raw" in capsys.readouterr().err
    assert main(["probe", "--from", str(tmp_path / "x.json")]) == 1
    assert f"there is no {tmp_path / 'x.json'}" in capsys.readouterr().err
    changed = json.loads(file.read_text())
    changed["rows"][0]["accuracy_mean"] += 0.01
    file.write_text(json.dumps(changed))
    assert main(["probe", "--from", str(file)]) == 1
    assert "not the numbers of" in capsys.readouterr().err
    changed["rows"][0]["accuracy_mean"] = None
    file.write_text(json.dumps(changed))
    assert main(["probe", "--from", str(file)]) == 1
    assert "accuracy_mean nan recorded" in capsys.readouterr().err
    file.write_text("{}")
    assert main(["probe", "--from", str(file)]) == 1
    assert "not the result of a probe" in capsys.readouterr().err


def test_repeats_of_nothing_drawn_are_told(digits_run, caplog):
    encoder = load_encoder(digits_run)
    read_task(encoder, Protocol("digits", repeats=3, labels_per_class=2))
    assert not caplog.records
    assert len(read_task(encoder, Protocol("digits", repeats=3)).draws) == 1
    assert "--repeats changes nothing: all labels are used, of one split (training and test" in caplog.text


@pytest.mark.parametrize(
    "options,message",
    [
        (["--labels-per-class", "-1"], "--labels-per-class is -1; give 1 or more"),
        (["--method", "knn", "--k", "0"], "--k is 0; give 1 or more"),
        (["--fraction", "1.5"], "--fraction is 1.5; give a share between 0 and 1"),
        (["--finetuning.num-epochs", "0"], "--finetuning.num-epochs is 0; give 1 or more"),
        (["--split", "random"], "--split random is not for digits, which has training and test split"),
    ],
)
def test_what_makes_no_sense_of_a_probe_is_one_message(options, message, digits_run, capsys):
    assert main(["probe", str(digits_run), *options]) == 1
    assert message in capsys.readouterr().err
