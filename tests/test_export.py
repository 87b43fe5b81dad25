"""``contrastive export``: the folder, its card and its sums; and what ``load_encoder`` refuses."""

import hashlib
import json
import pickle
import re
import shutil
import subprocess

import onnxruntime
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import contrastive
from contrastive.card import model_card
from contrastive.cli import main
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError
from contrastive.export import write_safetensors
from contrastive.features import FrozenEncoder
from encoders.graph import GraphEncoder
from encoders.image import ResNet

MARK = "/tmp/should-not-exist-after-an-export-was-loaded"


@pytest.fixture(scope="module")
def images():
    return read_images("digits", "test").images[:7]


@pytest.fixture(scope="module")
def run(digits_run, tmp_path_factory):
    """A copy of the shared run, with a result of its own."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(digits_run, folder, ignore=shutil.ignore_patterns("wandb", "results"))
    assert main(["probe", str(folder), "--labels-per-class", "2", "--repeats", "3"]) == 0
    return folder


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "weights"
    assert main(["export", str(run), "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """An export to damage."""
    return shutil.copytree(folder, tmp_path / "copy")


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_folder_is_whole_and_its_sums_are_right(folder, run, images):
    assert {file.name for file in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
        "SHA256SUMS",
    }
    assert subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder).returncode == 0
    assert torch.equal(contrastive.load_encoder(folder)(images), contrastive.load_encoder(run)(images))


def test_the_card_tells_what_the_run_wrote(folder, run):
    card = (folder / "README.md").read_text()
    assert front_matter(card)["library_name"] == "contrastive-pretraining"
    assert front_matter(card)["pipeline_tag"] == "image-feature-extraction"
    (row,) = [line for line in card.splitlines() if line.startswith("| pretrained |")]
    name = "probe-labels_per_class=2-repeats=3.json"
    result = json.loads((run / "results" / name).read_text())["rows"][0]
    numbers = [result["accuracy_mean"], *result["accuracy_ci95"]]
    found = [float(number) for number in re.findall(r"\d\.\d+", row)]
    assert found[:3] == pytest.approx(numbers, abs=1e-4)  # then the other metrics
    for told in (
        "| `source` | `digits` |",
        "DebiasedInfoNCE(temperature=0.7, tau_plus=0.1)",
        "SmallCNN(in_channels=1, width=16, num_features=256)",
        "geometric(degrees=20.0",
        "| epochs | `2` |",
        "| steps | `16` |",
        "| batch size | `128` |",
        "| seed | `0` |",
        "labels_per_class: 2",
        "knn_accuracy",
        "load_encoder(",
        f"torch {torch.__version__}",
        "Licence: not stated",
    ):
        assert told in card, told


def test_the_card_of_a_run_that_steps_ended_tells_no_epochs(run):
    encoder = contrastive.load_encoder(run)
    encoder.config["trainer"]["max_steps"] = 16
    card = model_card(encoder, run, "model.safetensors")
    assert "| steps | `16` |" in card and "| epochs |" not in card


def test_a_loose_checkpoint_has_a_card_that_says_what_is_not_known(run, tmp_path):
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "loose.ckpt")
    assert main(["export", str(tmp_path / "loose.ckpt"), "--output", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not known" in card and "DebiasedInfoNCE" in card and "| pretrained |" not in card


def test_the_card_of_a_graph_encoder(tmp_path):
    spec = {"class_path": "encoders.graph.GraphEncoder", "init_args": {"node_features": 3, "num_hidden": 8}}
    encoder = FrozenEncoder(
        GraphEncoder(**spec["init_args"]), torch.nn.Identity(), {"model": {"encoder": spec}}
    )
    write_safetensors(encoder, tmp_path, None)
    card = (tmp_path / "README.md").read_text()
    assert front_matter(card)["pipeline_tag"] == "graph-ml" and "a GraphBatch" in card
    assert "GraphEncoder(node_features=3, num_hidden=8)" in card and "Not recorded." in card


def test_an_export_of_an_export_keeps_its_card(folder, tmp_path):
    assert main(["export", str(folder), "--output", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "README.md").read_text() == (folder / "README.md").read_text()


def test_programs_of_a_run_compute_its_features(run, images, tmp_path):
    """Without --image-size: the size of the digits is found."""
    expected = contrastive.load_encoder(run)(images)
    for kind in ("onnx", "torch-export"):
        assert main(["export", str(run), "--output", str(tmp_path / kind), "--format", kind]) == 0
        assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / kind).returncode == 0
        with pytest.raises(ContrastiveError, match=r"holds no model.safetensors \(it holds .*encoder\."):
            contrastive.load_encoder(tmp_path / kind)
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "encoder.onnx"))
    (features,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(features), expected, atol=1e-4, rtol=0)
    program = torch.export.load(tmp_path / "torch-export" / "encoder.pt2").module()
    torch.testing.assert_close(program(images=images), expected, atol=1e-4, rtol=0)
    for kind in ("onnx", "torch-export"):  # the card's own example runs
        (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / kind / "README.md").read_text(), re.S)
        scope = {}
        exec(code.replace('"encoder.', f'"{tmp_path / kind}/encoder.'), scope)
        assert scope["features"].shape == (4, 256)


def test_what_fails_leaves_nothing(run, tmp_path, capsys):
    arguments = [
        "export",
        str(run),
        "--output",
        str(tmp_path / "out"),
        "--format",
        "onnx",
        "--image-size",
        "1",
    ]
    assert main(arguments) == 1  # the maximum over 2×2 pixels of an image that has one
    assert "SmallCNN cannot be written as" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_resnets_card_says_how_torchvision_opens_it(tmp_path, monkeypatch):
    spec = {"class_path": "encoders.image.ResNet", "init_args": {"stem": "imagenet"}}
    encoder = FrozenEncoder(ResNet(stem="imagenet"), torch.nn.Identity(), {"model": {"encoder": spec}})
    write_safetensors(encoder, tmp_path, None)
    code = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.S)[1]
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(code, scope)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(scope["model"].eval()(x), encoder(x))


def test_an_encoder_without_a_configuration_is_not_exported(tmp_path):
    with pytest.raises(ContrastiveError, match="does not record how it is built"):
        write_safetensors(FrozenEncoder(ResNet(width=8), torch.nn.Identity()), tmp_path, None)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_changed_or_truncated_file_is_refused_by_name(copy, name):
    content = (copy / name).read_bytes()
    for damaged in (
        content[:-1],
        content.replace(b"0.5", b"0.6", 1) if name == "config.json" else content[::-1],
    ):
        (copy / name).write_bytes(damaged)
        with pytest.raises(ContrastiveError, match=f"{name} is not the file that was exported"):
            contrastive.load_encoder(copy)
    (copy / "README.md").write_text("a card may be edited")
    (copy / name).write_bytes(content)
    contrastive.load_encoder(copy)


class Code:
    """What a malicious pickle holds."""

    def __reduce__(self):
        return subprocess.check_call, (["touch", MARK],)


@pytest.fixture
def harmless(tmp_path):
    """Nothing that is loaded in the test has run code."""
    from pathlib import Path

    yield
    assert not Path(MARK).exists()


def test_a_pickle_in_place_of_the_weights_is_refused(copy, harmless):
    for content in (pickle.dumps(Code()), pickle.dumps({"layers.0.weight": Code()})):
        (copy / "model.safetensors").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        (copy / "SHA256SUMS").write_text(f"{digest}  model.safetensors\n")  # a stranger has the sums too
        with pytest.raises(ContrastiveError, match="is not a complete export"):
            contrastive.load_encoder(copy)


POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", MARK]}}


@pytest.mark.parametrize(
    "spec",
    [
        {"class_path": "os.system", "init_args": {"command": f"touch {MARK}"}},
        POPEN,
        {
            "class_path": "encoders.graph.GraphEncoder",
            "init_args": {"node_features": 3, "layer_args": {"a": POPEN}},
        },
        {"class_path": "encoders.graph.NodeEncoder", "dict_kwargs": {"node_features": POPEN}},
        {
            "class_path": "torch.nn.Linear",
            "init_args": {"in_features": 3, "out_features": 3, "device": POPEN},
        },
        {
            "class_path": "torchvision.ops.MLP",
            "init_args": {"in_channels": 1, "hidden_channels": [1], "norm_layer": "os.system"},
        },
        {"class_path": "no.such.module", "init_args": {}},
    ],
)
def test_a_configuration_that_names_what_is_no_module_is_refused(copy, spec, harmless):
    (copy / "SHA256SUMS").unlink()
    config = json.loads((copy / "config.json").read_text())
    for place in ("encoder", "preprocess"):
        arguments = config["model"]["init_args"] | {place: spec}
        (copy / "config.json").write_text(json.dumps({"model": {"init_args": arguments}}))
        with pytest.raises(ContrastiveError, match="cannot build"):
            contrastive.load_encoder(copy)


@pytest.mark.parametrize(
    "config", ["null", "[]", "{}", '{"model": 3}', '{"model": {"encoder": "SmallCNN"}}', "{"]
)
def test_a_configuration_of_another_kind_is_one_message(copy, config):
    (copy / "SHA256SUMS").unlink()
    (copy / "config.json").write_text(config)
    with pytest.raises(ContrastiveError, match="does not say how its encoder is built|not a complete export"):
        contrastive.load_encoder(copy)


def test_weights_of_another_encoder_are_named(copy):
    weights = load_file(copy / "model.safetensors")
    weights["layers.0.weight"] = weights["layers.0.weight"][:3].clone()
    save_file(weights, copy / "model.safetensors")
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(ContrastiveError, match="of another shape: layers.0.weight"):
        contrastive.load_encoder(copy)


def test_an_unknown_format_is_refused(run, tmp_path):
    assert main(["export", str(run), "--output", str(tmp_path / "x"), "--format", "tiff"]) == 2


def test_a_strangers_configuration_fetches_nothing(folder, copy):
    """Preprocessing that names weights to download is refused before it is built."""
    config = json.loads((copy / "config.json").read_text())
    spec = {
        "class_path": "encoders.pretrained.TimmEncoder",
        "init_args": {"name": "resnet18", "pretrained": True},
    }
    config["model"]["init_args"]["preprocess"] = {
        "class_path": "torch.nn.Sequential",
        "init_args": {"args": [spec]},
    }
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(ContrastiveError, match="would fetch weights"):
        contrastive.load_encoder(copy)
