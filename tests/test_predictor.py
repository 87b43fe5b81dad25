"""``contrastive probe --save`` and ``contrastive predict``: what was judged is what is kept and applied."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

import contrastive
from contrastive.cli import main
from contrastive.data.image_dataset import read_image
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluate import evaluate_all, predictor_of
from contrastive.evaluation.protocol import Finetuning, Protocol
from contrastive.evaluation.tasks import read_task
from contrastive.export import save_predictor
from contrastive.features import FrozenEncoder, load_encoder
from contrastive.items import encode_items
from contrastive.predictor import Head, Predictor, load_predictor
from encoders.graph import GraphEncoder, NodeEncoder

pytestmark = pytest.mark.usefixtures("own_cache")

SMILES = [f"{'C' * i}{tail}" for i in range(1, 13) for tail in ("O", "N", "Cl", "F", "OC", "C#N", "C=O", "S")]
QUICK = Finetuning(num_epochs=2, min_steps=4, batch_size=16)


def graph_encoder(network, data=None, **arguments):
    torch.manual_seed(0)
    spec = {"class_path": f"encoders.graph.{network.__name__}", "init_args": arguments}
    config = {"model": {"encoder": spec}, "data": {"class_path": data} if data else {}}
    return FrozenEncoder(network(**arguments), nn.Identity(), config)


@pytest.fixture
def molecules(tmp_path):
    """A table with labels, some of them blank, and a number."""
    rng, file = np.random.default_rng(0), tmp_path / "molecules.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", "oxygen", "noise", "carbons"])
        for name in rng.permutation(SMILES):
            noise = rng.choice(["0", "1", ""])
            writer.writerow([name, int("O" in name), noise, 10 * name.count("C") + 3])
    return file


def rows_of(file):
    with file.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    return header, rows


@pytest.mark.parametrize("method", ["linear", "finetune", "scratch"])
@pytest.mark.parametrize("targets", [("oxygen", "noise"), ("carbons",)])
def test_a_predictor_says_of_the_test_items_what_the_probe_said(method, targets, molecules, tmp_path):
    arguments = {"node_features": "atoms", "num_hidden": 8, "num_layers": 2}
    encoder = graph_encoder(GraphEncoder, "contrastive.data.molecules.MoleculeData", **arguments)
    protocol = Protocol(str(molecules), method, targets, split="random", finetuning=QUICK)
    task = read_task(encoder, protocol)
    (evaluation,) = evaluate_all({"pretrained": encoder}, ["pretrained"], task, protocol, cache=False)
    predictor = predictor_of(evaluation, {"pretrained": encoder}, task, protocol)
    save_predictor(predictor, tmp_path / "saved", tmp_path)
    opened = load_predictor(tmp_path / "saved")
    assert (opened.kind, opened.names) == (task.kind, list(targets))
    test = task.draws[0].test
    said = opened.predict([task.dataset.smiles[i] for i in test], batch_size=5)
    score = evaluation.predictions[0].score
    np.testing.assert_allclose(said, score if task.kind == "values" else 1 / (1 + np.exp(-score)), atol=1e-4)
    assert ("labels" in opened.config) == (method != "linear") and "labels" not in encoder.config
    # the encoder in it is the one whose features are predicted from
    h = load_encoder(tmp_path / "saved")(task.dataset.__getitems__(test.tolist()).input)
    linear = (h - opened.mean) / opened.scale @ opened.weight.T + opened.bias
    np.testing.assert_allclose(linear.numpy(), score, atol=1e-3)


@pytest.mark.parametrize("objective", ["softmax", "one_vs_rest"])
def test_classes_of_nodes_of_unit_length_where_some_were_not_fitted(objective, tmp_path):
    rng = np.random.default_rng(0)
    file, arrays = tmp_path / "nodes.npz", {"edges": rng.integers(0, 60, (200, 2))}
    arrays |= {"x": rng.normal(size=(60, 5)).astype(np.float32), "y": np.repeat([0, 1, 2, 4], 15)}
    np.savez(file, **arrays)
    encoder = graph_encoder(NodeEncoder, node_features=5, num_hidden=8, num_layers=2)
    protocol = Protocol(str(file), objective=objective, repeats=2)
    task = read_task(encoder, protocol)
    (evaluation,) = evaluate_all({"pretrained": encoder}, ["pretrained"], task, protocol, cache=False)
    predictor = predictor_of(evaluation, {"pretrained": encoder}, task, protocol)
    assert predictor.unit_length and predictor.one_vs_rest == (objective == "one_vs_rest")
    score = evaluation.predictions[0].score
    said = predictor(task.dataset.graph)
    np.testing.assert_allclose(said[task.draws[0].test].numpy(), score, atol=1e-5)
    assert not said[:, 3].any()  # no node is of class 3


def test_the_command_writes_scikit_learns_probabilities(digits_run, tmp_path, capsys):
    saved, table = tmp_path / "saved", tmp_path / "p.csv"
    options = ["--save", str(saved), "--untrained", "false", "--output", str(tmp_path / "r.json")]
    assert main(["probe", str(digits_run), *options]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert main(["predict", str(saved), "--data", "digits", "--split", "test", "--output", str(table)]) == 0
    header, rows = rows_of(table)
    assert header == ["item", "predicted", *(f"p_{digit}" for digit in range(10))]
    y, p = read_images("digits", "test").labels.numpy(), np.array([row[2:] for row in rows], dtype=float)
    assert [row[0] for row in rows] == [str(i) for i in range(len(y))]
    assert [row[1] for row in rows] == [str(i) for i in p.argmax(1)]
    accuracy = result["rows"][0]["accuracy_mean"]
    assert np.mean(p.argmax(1) == y) == pytest.approx(accuracy, abs=1e-12)

    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits"))
    h, draw = encode_items(encoder, task.dataset), task.draws[0]
    scaled = StandardScaler().fit(h[np.concatenate([draw.fit, draw.val])]).transform(h)
    c = result["rows"][0]["chosen"][0]["C"]
    scaled = scaled.astype(np.float64)  # in which the solver gets to its end
    model = LogisticRegression(C=c, max_iter=10_000, tol=1e-10).fit(scaled[draw.fit], task.y[draw.fit])
    apart = np.abs(p - model.predict_proba(scaled[draw.test]))
    assert np.quantile(apart, 0.99) < 1e-3 and apart.max() < 0.03  # the minimum is flat where C is 100

    card = (saved / "README.md").read_text()
    assert "contrastive predict FOLDER" in card and f"{accuracy:.4g}" in card
    capsys.readouterr()
    assert main(["probe", str(digits_run), *options]) == 1  # before anything is fitted
    assert "exists already" in capsys.readouterr().err
    assert main(["probe", str(digits_run), "--method", "knn", "--save", str(tmp_path / "knn")]) == 1
    assert "keeps no knn" in capsys.readouterr().err and not (tmp_path / "knn").exists()
    assert main(["predict", str(digits_run), "--data", "digits", "--output", str(table)]) == 1
    assert "holds no predictor.safetensors" in capsys.readouterr().err
    for out, message in (("p.json", "does not end in .csv"), ("none/p.csv", "there is no folder")):
        assert main(["predict", str(saved), "--data", "digits", "--output", str(tmp_path / out)]) == 1
        assert message in capsys.readouterr().err


def test_a_program_predicts(digits_run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    saved = tmp_path / "saved"
    options = ["--save", str(saved), "--untrained", "false", "--output", str(tmp_path / "r.json")]
    assert main(["probe", str(digits_run), *options]) == 0
    images = read_images("digits", "test").images[:5]
    expected = load_predictor(saved)(images).numpy()
    assert main(["export", str(saved), "--output", str(tmp_path / "onnx"), "--format", "onnx"]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "encoder.onnx"))
    (predictions,) = session.run(["predictions"], {"images": images.numpy()})
    np.testing.assert_allclose(predictions, expected, atol=1e-5)
    assert (
        "(predictions,) = session.run(None, inputs)  # (N, 10)"
        in (tmp_path / "onnx" / "README.md").read_text()
    )
    # as weights it is the encoder, whose card does not promise predictions
    assert main(["export", str(saved), "--output", str(tmp_path / "weights")]) == 0
    assert not (tmp_path / "weights" / "predictor.safetensors").exists()
    assert "it has no classifier" in (tmp_path / "weights" / "README.md").read_text()


def test_damaged_predictors_are_refused_by_name(tmp_path):
    encoder = graph_encoder(GraphEncoder, node_features=3, num_hidden=4, num_layers=1)
    head = Head(np.ones((2, 4)), np.zeros(2), np.zeros(4), np.ones(4))
    predictor = Predictor(encoder, head, "classes", ["a", "b"])
    save_predictor(predictor, tmp_path / "saved", tmp_path)
    file = tmp_path / "saved" / "predictor.safetensors"
    assert contrastive.load_predictor(str(tmp_path / "saved")).names == ["a", "b"]
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(ContrastiveError, match=r"predictor\.safetensors is not the file that was exported"):
        load_predictor(tmp_path / "saved")
    (tmp_path / "saved" / "SHA256SUMS").unlink()
    with pytest.raises(ContrastiveError, match=r"predictor\.safetensors cannot be read"):
        load_predictor(tmp_path / "saved")
    save_file(load_file_of(whole, tmp_path), file)  # without what it predicts
    with pytest.raises(ContrastiveError, match=r"predictor\.safetensors cannot be read"):
        load_predictor(tmp_path / "saved")
    with pytest.raises(ContrastiveError, match="there is no"):
        load_predictor(tmp_path / "nothing")
    other = graph_encoder(GraphEncoder, node_features=3, num_hidden=8, num_layers=1)
    wider = Head(np.ones((2, 8)), np.zeros(2), np.zeros(8), np.ones(8))
    save_predictor(Predictor(other, wider, "classes", ["a", "b"]), tmp_path / "other", tmp_path)
    shutil.copy(tmp_path / "other" / "predictor.safetensors", file)
    with pytest.raises(ContrastiveError, match=r"weight has shape \(2, 8\), not \(2, 4\)"):
        load_predictor(tmp_path / "saved")


def load_file_of(content, folder):
    (folder / "whole.safetensors").write_bytes(content)
    return load_file(folder / "whole.safetensors")


def test_images_of_a_folder_are_named_and_one_that_does_not_decode_is_left_out(digits_run, tmp_path):
    for i, image in enumerate(read_images("digits", "test").images[:3]):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "new").mkdir()
    for file in tmp_path.glob("*.png"):
        file.rename(tmp_path / "new" / file.name)
    encoder = load_encoder(digits_run)
    head = Head(
        np.eye(2, encoder.num_features), np.array([0.0, -np.inf]), *np.ones((2, encoder.num_features))
    )
    save_predictor(Predictor(encoder, head, "classes", ["a", "b"]), tmp_path / "saved", digits_run)
    command = [
        "predict",
        str(tmp_path / "saved"),
        "--data",
        str(tmp_path / "new"),
        "--output",
        str(tmp_path / "p.csv"),
    ]
    assert main(command) == 1 and not (tmp_path / "p.csv").exists()
    assert main([*command, "--skip-corrupt"]) == 0
    rows = rows_of(tmp_path / "p.csv")[1]
    assert [row[0].rpartition("/")[2] for row in rows] == ["0.png", "1.png", "2.png"]
    assert {tuple(row[1:]) for row in rows} == {("a", "1", "0")}


def test_a_predictor_knows_the_size_of_its_images_away_from_their_data(tmp_path, digits_run):
    for i, image in enumerate(read_images("digits", "test").images[:60]):
        folder = tmp_path / "own" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{i}.png")
        (tmp_path / "larger").mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).resize((24, 24)).save(tmp_path / "larger" / f"{i:02d}.png")
    encoder = load_encoder(digits_run)
    data = {"init_args": {"source": str(tmp_path / "own"), "channels": 1}}
    encoder = FrozenEncoder(encoder.encoder, encoder.preprocess, {**encoder.config, "data": data})
    protocol = Protocol(str(tmp_path / "own"), "scratch", finetuning=QUICK)
    task = read_task(encoder, protocol)
    (evaluation,) = evaluate_all({"pretrained": encoder}, ["pretrained"], task, protocol)
    predictor = predictor_of(evaluation, {"pretrained": encoder}, task, protocol)
    save_predictor(predictor, tmp_path / "saved", tmp_path)
    shutil.rmtree(tmp_path / "own")
    opened = load_predictor(tmp_path / "saved")
    assert opened.data == {"channels": 1, "image_size": 8}  # and nothing of a pretraining that it has not had
    files = sorted((tmp_path / "larger").iterdir())
    said = opened.predict(files)
    np.testing.assert_allclose(said, opened(torch.stack([read_image(f, 8, 1) for f in files])), atol=1e-5)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert f"trained on the labels of {tmp_path / 'own'} alone" in card and "Pretraining" not in card


def test_nothing_is_saved_where_the_rest_fails_and_a_diverged_head_is_refused(digits_run, tmp_path, capsys):
    options = ["probe", str(digits_run), "--untrained", "false", "--labels-per-class", "2"]
    assert main([*options, "--output", str(tmp_path / "r.json")]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    result["rows"][0]["accuracy_mean"] += 0.1
    (tmp_path / "r.json").write_text(json.dumps(result))
    saved = tmp_path / "saved"
    assert main(["probe", "--from", str(tmp_path / "r.json"), "--save", str(saved)]) == 1
    assert "not the numbers" in capsys.readouterr().err and not saved.exists()
    encoder = load_encoder(digits_run)
    width = encoder.num_features
    head = Head(np.full((2, width), np.nan), np.zeros(2), np.zeros(width), np.ones(width))
    with pytest.raises(ContrastiveError, match="weight is not finite"):
        Predictor(encoder, head, "classes", ["a", "b"])


def test_an_image_decoded_on_demand_that_does_not_decode_has_no_prediction(digits_run, tmp_path, monkeypatch):
    for i, image in enumerate(read_images("digits", "test").images[:3]):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{2 * i}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    monkeypatch.setattr("contrastive.data.images._CACHE_BYTES", 0)  # as of a set that is larger than memory
    encoder = load_encoder(digits_run)
    width = encoder.num_features
    head = Head(np.eye(2, width), np.zeros(2), np.zeros(width), np.ones(width))
    save_predictor(Predictor(encoder, head, "classes", ["a", "b"]), tmp_path / "saved", digits_run)
    out = tmp_path / "p.csv"
    command = ["predict", str(tmp_path / "saved"), "--data", str(tmp_path), "--output", str(out)]
    assert main([*command, "--skip-corrupt"]) == 0
    assert [row[0].rpartition("/")[2] for row in rows_of(out)[1]] == ["0.png", "2.png", "4.png"]
    out = tmp_path / "h.npy"
    command = ["embed", str(digits_run), "--data", str(tmp_path), "--output", str(out), "--skip-corrupt"]
    assert main(command) == 0
    assert np.load(out).shape == (3, width) and np.isfinite(np.load(out)).all()
