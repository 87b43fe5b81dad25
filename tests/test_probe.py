"""``contrastive probe`` and its kin on every kind of item and target."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from torch import nn

from augmentations.colour import Normalize
from contrastive.cli import main
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError
from contrastive.evaluation.classifiers import predict_linear
from contrastive.evaluation.draws import Draw
from contrastive.evaluation.evaluate import evaluate_all
from contrastive.evaluation.finetune import _groups, _Network, blocks, finetune
from contrastive.evaluation.leaks import canonical, keys_of
from contrastive.evaluation.protocol import Finetuning, Protocol
from contrastive.evaluation.runs import result_name, run_names
from contrastive.evaluation.tasks import read_task
from contrastive.export import write_safetensors
from contrastive.feature_cache import cached_features, fingerprint_of
from contrastive.features import FrozenEncoder, load_encoder
from encoders.graph import GraphEncoder
from encoders.graph_batch import GraphBatch
from encoders.image import ResNet

QUICK = Finetuning(num_epochs=4, min_steps=20, batch_size=16, lr=1e-2)
HEADS = ["", "C", "CC", "O", "N"]
RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "c1ccccc1", "c1ccncc1", "c1ccoc1", "C1CCNCC1", "C1CCOCC1", "c1ccsc1"]
TAILS = ["C", "CC", "CO", "CN", "CCl", "CCC", "C(=O)O", "C#N", "CF", "CCO", "C(C)C", "CS"]
SPEC = {
    "class_path": "encoders.graph.GraphEncoder",
    "init_args": {"node_features": "atoms", "num_hidden": 16, "num_layers": 2, "readout": "mean"},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def molecules(tmp_path):
    """A table of an oxygen's presence, the same with blanks, and the number of carbons."""
    rng, file = np.random.default_rng(0), tmp_path / "toy.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", "oxygen", "sparse", "carbons"])
        for name in (head + ring + tail for head in HEADS for ring in RINGS for tail in TAILS):
            oxygen = int("O" in name or "o" in name)
            sparse = oxygen if rng.random() < 0.6 else ""
            writer.writerow([name, oxygen, sparse, sum(c in "cC" for c in name.replace("Cl", ""))])
    return file


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    network = GraphEncoder(**SPEC["init_args"])
    return FrozenEncoder(network, nn.Identity(), {"model": {"encoder": SPEC}})


def evaluated(encoder, names, protocol):
    task = read_task(encoder, protocol)
    return {e.name: e.row() for e in evaluate_all({"pretrained": encoder}, names, task, protocol)}


@pytest.mark.parametrize("method", ["linear", "knn", "finetune", "scratch"])
@pytest.mark.parametrize(
    "targets,metric", [(("oxygen",), "roc_auc"), (("oxygen", "sparse"), "roc_auc"), (("carbons",), "rmse")]
)
def test_molecules_by_every_method_and_kind_of_target(encoder, molecules, method, targets, metric):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    protocol = Protocol(str(molecules), method, targets, split="random", k=3, finetuning=QUICK)
    rows = evaluated(encoder, ["pretrained", "raw"], protocol)
    assert rows.keys() == {"linear": {"pretrained", "raw"}, "knn": {"pretrained", "raw"}}.get(
        method, {"pretrained" if method == "finetune" else "scratch"}
    )
    row = next(iter(rows.values()))
    low, high = row[f"{metric}_ci95"]
    assert low <= row[f"{metric}_mean"] <= high
    assert row["roc_auc_mean"] > 0.8 if metric == "roc_auc" else row["r2_mean"] > 0.3
    again = evaluated(encoder, ["pretrained", "raw"], protocol)
    assert again == rows


def test_a_table_of_molecules_from_the_command_line(molecules, tmp_path):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    run = tmp_path / "run"
    small = ["--data.source", str(molecules), "--data.batch_size", "64", "--trainer.max_epochs", "1"]
    recipe = ["--config", "configs/molecule/graphcl_zinc.yaml", "--wandb", "off"]
    assert main(["pretrain", *recipe, *small, "--run_dir", str(run)]) == 0
    options = ["--data", str(molecules), "--targets", "oxygen,sparse", "--split", "random", "--raw"]
    assert main(["probe", str(run), *options]) == 0
    result = json.loads((run / "results" / "probe.json").read_text())
    assert [row["representation"] for row in result["rows"]] == ["pretrained", "untrained", "raw"]
    assert result["task"]["names"] == ["oxygen", "sparse"]
    copy = molecules.rename(tmp_path / "other table.csv")  # which has a result of its own
    options[1] = str(copy)
    assert main(["probe", str(run), *options, "--method", "knn"]) == 0
    assert (run / "results" / "probe-knn-other_table.json").is_file()
    copy.rename(molecules)
    # the table was pretrained on as well, without its targets
    assert result["leaks"]["in_pretraining"] == result["leaks"]["num_test"]
    assert main(["probe", str(run), "--data", str(molecules), "--targets", "[1]"]) == 1


def test_few_labels_are_drawn_by_class_and_never_tested_on(encoder, molecules):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    protocol = Protocol(
        str(molecules), targets=("oxygen",), split="stratified", labels_per_class=4, repeats=3
    )
    task = read_task(encoder, protocol)
    assert len(task.draws) == 3
    for draw in task.draws:
        assert (np.bincount(task.y[draw.fit, 0].astype(int)) == 4).all() and len(draw.val) <= 8
        assert len({*draw.fit, *draw.val, *draw.test}) == sum(map(len, draw))
    blanks = Protocol(str(molecules), targets=("sparse",), split="random", labels_per_class=4)
    with pytest.raises(Exception, match="give a fraction instead"):
        read_task(encoder, blanks)
    with pytest.raises(Exception, match="--targets COLUMN"):
        read_task(
            FrozenEncoder(encoder.encoder, encoder.preprocess, {"data": {"class_path": "x.MoleculeData"}}),
            Protocol(str(molecules)),
        )


def test_fine_tuning_leaves_the_encoder_alone_and_frozen_norms_as_they_are(digits_run):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits", labels_per_class=10, repeats=1))
    before = {k: v.clone() for k, v in encoder.encoder.state_dict().items()}
    result = finetune(encoder, task, task.draws[0], QUICK)
    assert (result.score.argmax(1) == task.y[task.draws[0].test]).mean() > 0.6
    assert all(torch.equal(v, before[k]) for k, v in encoder.encoder.state_dict().items())
    still = finetune(encoder, task, task.draws[0], Finetuning(num_epochs=1, min_steps=1, lr=0.0))
    np.testing.assert_allclose(still.score.sum(1), 1, atol=1e-5)


def test_early_stopping_keeps_the_best_epoch(encoder, molecules):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    task = read_task(encoder, Protocol(str(molecules), targets=("oxygen",), split="random"))
    settings = Finetuning(num_epochs=40, min_steps=1, patience=3, lr=3e-2)
    chosen = finetune(encoder, task, task.draws[0], settings).chosen
    assert chosen["num_epochs"] <= min(40, chosen["epoch"] + 3)


def test_fine_tuning_that_diverges_or_has_nothing_to_choose_by_is_one_message(digits_run):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits", labels_per_class=2, repeats=1))
    with pytest.raises(ContrastiveError, match="training diverged, .*; lower --finetuning.lr"):
        finetune(encoder, task, task.draws[0], replace(QUICK, lr=1e30))
    y = (task.y == 1).astype(np.float32)[:, None]
    draw = task.draws[0]._replace(val=np.flatnonzero(task.y == 3)[:9])
    with pytest.raises(ContrastiveError, match="no target has two values in the validation part"):
        finetune(encoder, replace(task, y=y), draw, QUICK)


class Scaled(nn.Module):
    """The features of an encoder in another unit."""

    takes_graphs = True

    def __init__(self, encoder, scale):
        super().__init__()
        self.encoder, self.scale, self.num_features = encoder, scale, encoder.num_features

    def forward(self, batch):
        return self.scale * self.encoder(batch)


def test_fine_tuning_of_molecules_does_not_depend_on_the_unit_of_features(encoder, molecules):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    task = read_task(encoder, Protocol(str(molecules), targets=("oxygen",), split="random"))

    def score(scale, **options):
        scaled = FrozenEncoder(Scaled(encoder.encoder, scale), encoder.preprocess, encoder.config)
        # so many steps that the norm's running statistics have forgotten where they started
        settings = Finetuning(num_epochs=1, min_steps=100, batch_size=64, lr=1e-4, **options)
        return finetune(scaled, task, task.draws[0], settings).score

    np.testing.assert_allclose(score(10.0), score(100.0), atol=0.02)
    assert np.abs(score(10.0, feature_norm=False) - score(100.0, feature_norm=False)).max() > 1


def test_the_feature_norm_is_float64s(encoder):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    batch = GraphBatch.from_smiles([ring + tail for ring in RINGS for tail in TAILS])
    model = _Network(encoder, 3, Finetuning(), True).train()
    h = model.encoder(batch).detach().double()
    normed = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
    expected = normed @ model.linear.weight.double().T + model.linear.bias.double()
    torch.testing.assert_close(model(batch).double(), expected, rtol=1e-4, atol=1e-4)
    rates = {id(p): g["lr"] for g in _groups(model, Finetuning(lr=1.0, encoder_lr=0.5)) for p in g["params"]}
    assert {rates[id(p)] for p in model.linear.parameters()} == {1.0}
    assert {rates[id(p)] for p in model.encoder.parameters()} == {0.5}


def test_the_blocks_of_a_resnet_are_its_stages_parts():
    network = ResNet(depth=18, width=8)
    names = {id(module): name for name, module in network.named_modules()}
    order = [names[id(block)] for block in blocks(network)]
    assert order == ["conv1", "bn1", *(f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1))]
    counted = sum(p.numel() for block in blocks(network) for p in block.parameters())
    assert counted == sum(p.numel() for p in network.parameters())


def test_features_are_computed_once_and_anew_for_other_weights(digits_run, monkeypatch):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits"))
    h = cached_features(encoder, task.dataset, batch_size=512, progress=None)
    with monkeypatch.context() as patched:
        patched.setattr(
            "contrastive.feature_cache.encode_items", lambda *_, **__: pytest.fail("encoded again")
        )
        np.testing.assert_array_equal(
            cached_features(encoder, task.dataset, batch_size=512, progress=None), h
        )
    with torch.no_grad():
        next(encoder.encoder.parameters()).add_(0.1)
    assert not np.array_equal(cached_features(encoder, task.dataset, batch_size=512, progress=None), h)


def test_networks_of_the_same_weights_that_print_alike_have_features_of_their_own():
    def key(preprocess=None, **settings):
        torch.manual_seed(0)
        return fingerprint_of(
            FrozenEncoder(GraphEncoder(node_features=3, **settings), preprocess or nn.Identity())
        )

    different = [
        {}, {"readout": "mean"}, {"residual": True}, {"jumping_knowledge": "sum"},
        {"layer": "sage"}, {"layer": "sage", "layer_args": {"aggregate": "max"}},
        {"preprocess": Normalize()}, {"preprocess": Normalize(mean=(0.5, 0.5, 0.5))},
    ]  # fmt: skip
    assert len({key(**settings) for settings in different}) == len(different)
    assert key() == key()


def test_a_damaged_cache_is_computed_anew(digits_run, tmp_path):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits"))
    h = cached_features(encoder, task.dataset, batch_size=512, progress=None)
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(cached_features(encoder, task.dataset, batch_size=512, progress=None), h)


def test_images_that_do_not_decode_leave_their_labels_out_too(digits_run, tmp_path, monkeypatch, capsys):
    """As of images held in memory, so of those decoded on demand, and of a run that skips its own."""
    digits = read_images("digits", "train")
    for i, (image, label) in enumerate(zip(digits.images[:120], digits.labels)):
        folder = tmp_path / "data" / ("test" if i % 3 == 0 else "train") / str(int(label) % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{i:03}.png")
    for split in ("train", "test"):
        victims = sorted((tmp_path / "data" / split / "0").iterdir())[::4]
        for victim in victims:
            victim.write_bytes(b"no image")
    rows, out = [], tmp_path / "r.json"
    command = ["probe", str(digits_run), "--data", str(tmp_path / "data"), "--output", str(out), "--raw"]
    for size in (4 * 2**30, 0):  # in memory, and as of a set that is larger
        monkeypatch.setattr("contrastive.data.images._CACHE_BYTES", size)
        assert main([*command, "--skip-corrupt"]) == 0
        result = json.loads(out.read_text())
        rows.append([*result["rows"], result["task"], result["leaks"]["num_test"]])
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
    leaks = json.loads((tmp_path / "x.json").read_text())["leaks"]
    assert leaks["in_pretraining"] == 10 and leaks["num_test"] == 40
    assert leaks["in_training"] == 40  # the test digits are all in this training folder too
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


def test_molecules_are_the_same_by_canonical_smiles():
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    from contrastive.data.molecules import MoleculeDataset
    from encoders.graph_batch import GraphBatch

    assert canonical("OCC") == canonical("C(O)C") == "CCO" and canonical("not one") == "not one"
    smiles = ["OCC", "CCO", "CCN"]
    keys = keys_of(MoleculeDataset(GraphBatch.from_smiles(smiles), smiles))
    assert keys[0] == keys[1] != keys[2]


def test_canonical_smiles_are_kept(tmp_path, monkeypatch):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    from contrastive.data.molecules import MoleculeDataset
    from contrastive.evaluation import leaks
    from encoders.graph_batch import GraphBatch

    data = MoleculeDataset(GraphBatch.from_smiles(["OCC", "CCN"]), ["OCC", "CCN"])
    assert keys_of(data) == ["CCO", "CCN"]
    with monkeypatch.context() as patched:
        patched.setattr(leaks, "canonical", lambda _: pytest.fail("made again"))
        assert keys_of(data) == ["CCO", "CCN"]
    assert keys_of(MoleculeDataset(GraphBatch.from_smiles(["OCC"]), ["OCC"])) == ["CCO"]
    (kept, _) = sorted((tmp_path / "cache").rglob("*.txt"), key=lambda file: -file.stat().st_size)
    kept.write_text("cut off")
    assert keys_of(data) == ["CCO", "CCN"]


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
    rows = json.loads((tmp_path / "run" / "results" / "inspect.json").read_text())["rows"]
    assert 0 < rows["pretrained"]["alignment"] < 2 and rows["untrained"]["uniformity"] < 0


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
    changed = json.loads(file.read_text())
    changed["rows"][0]["accuracy_mean"] += 0.01
    file.write_text(json.dumps(changed))
    assert main(["probe", "--from", str(file)]) == 1
    assert "not the numbers of" in capsys.readouterr().err
    file.write_text("{}")
    assert main(["probe", "--from", str(file)]) == 1
    assert "not the result of a probe" in capsys.readouterr().err


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
    rows = json.loads((tmp_path / "label_efficiency.json").read_text())["rows"]
    names = ["pretrained", "untrained", "raw", "scratch", "pretrained, fine-tuned"]
    assert [(row["representation"], row["labels_per_class"]) for row in rows] == [
        (name, number) for number in (1, None) for name in names
    ]
    assert [row["num_draws"] for row in rows] == [3, 3, 3, 1, 1, 1, 1, 1, 1, 1]
    assert (tmp_path / "label_efficiency.png").stat().st_size > 10_000
    assert main(["label-efficiency", str(digits_run), "--labels-per-class", "1,x"]) == 1

    assert main(["inspect", str(digits_run), "--num-items", "300", "--output", str(tmp_path / "i.json")]) == 0
    rows = json.loads((tmp_path / "i.json").read_text())["rows"]
    assert rows.keys() == {"pretrained", "untrained"} and rows["pretrained"]["uniformity"] < 0


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


@pytest.mark.parametrize(
    "options,message",
    [
        (["--labels-per-class", "-1"], "--labels-per-class is -1; give 1 or more"),
        (["--method", "knn", "--k", "0"], "--k is 0; give 1 or more"),
        (["--finetuning.num-epochs", "0"], "--finetuning.num-epochs is 0; give 1 or more"),
        (["--split", "random"], "--split random is not for digits, which has training and test split"),
    ],
)
def test_what_makes_no_sense_of_a_probe_is_one_message(options, message, digits_run, capsys):
    assert main(["probe", str(digits_run), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_recorded_run_that_is_not_named_is_not_taken_for_the_untrained_one(digits_run):
    encoder, protocol = load_encoder(digits_run), Protocol("digits")
    task = read_task(encoder, protocol)
    with pytest.raises(ContrastiveError, match="no run is called old, as one was; these are pretrained"):
        evaluate_all({"pretrained": encoder}, ["old"], task, protocol)


def test_features_that_are_not_finite_are_not_judged(digits_run):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits"))
    with torch.no_grad():
        next(encoder.encoder.parameters()).fill_(float("nan"))
    for enabled in (True, False):
        with pytest.raises(ContrastiveError, match="features of 1797 of 1797 items are not finite"):
            cached_features(encoder, task.dataset, enabled=enabled)


def test_quantities_have_no_labels_a_class(encoder, molecules, tmp_path, capsys):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    (tmp_path / "run").mkdir()
    write_safetensors(encoder, tmp_path / "run", None)
    options = ["--data", str(molecules), "--targets", "carbons", "--labels-per-class", "all"]
    assert main(["label-efficiency", str(tmp_path / "run"), *options]) == 1
    assert "has no classes to count labels by" in capsys.readouterr().err


def test_features_of_nearly_one_direction_are_fitted_as_well_as_those_without_it():
    """A large constant part leaves the best classifier of unit-length rows as it is; solvers stop at it."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 900)
    spread = np.eye(5)[y] @ rng.normal(size=(5, 16)) + 0.5 * rng.normal(size=(900, 16))
    h = np.hstack([np.full((900, 1), 3000.0), spread]).astype(np.float32)
    draw = Draw(np.arange(300), np.arange(300, 600), np.arange(600, 900))
    strengths = tuple(10.0**k for k in range(-2, 6))
    found = predict_linear(h, y, draw, "classes", regularisations=strengths, unit_length=True)
    rows = normalize(h.astype(np.float64))
    exact = max(
        LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=5000)
        .fit(rows[:300], y[:300])
        .score(rows[300:600], y[300:600])
        for c in strengths
    )
    assert found.val == pytest.approx(exact, abs=0.01)
