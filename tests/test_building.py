"""What a stranger's file may name, and that nothing it names is run, imported or fetched."""

import json
import sys

import pytest
from safetensors.torch import save_file

import contrastive
from contrastive.building import TRUST, build_data, build_module
from contrastive.errors import ContrastiveError
from encoders.image import ResNet

TINY = {"class_path": "encoders.image.ResNet", "init_args": {"width": 1}}


@pytest.fixture
def export(tmp_path):
    """An export of a tiny encoder, as a stranger may have changed it."""

    def write(**model):
        save_file(ResNet(width=1).state_dict(), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"model": {"encoder": TINY} | model, "data": {}}))
        return tmp_path

    return write


@pytest.mark.parametrize("path", ["torchvision.models.resnet18", "torchmetrics.Accuracy", "antigravity.Fly"])
@pytest.mark.parametrize("place", ["encoder", "preprocess"])
def test_a_file_may_not_name_other_packages(export, path, place):
    before = set(sys.modules)
    with pytest.raises(ContrastiveError, match=f"cannot build {path}: it names {path}.*set {TRUST}="):
        contrastive.load_encoder(export(**{place: {"class_path": path}}))
    assert "antigravity" not in set(sys.modules) - before  # whose import opens a browser


@pytest.mark.parametrize(
    "spec",
    [
        {
            "class_path": "torch.nn.TransformerEncoderLayer",
            "init_args": {"d_model": 4, "nhead": 2, "activation": "os.system"},
        },
        {"class_path": "torch.nn.Sequential", "init_args": {"args": [{"class_path": "subprocess.Popen"}]}},
        {"class_path": "MetricCollection"},  # a name without its package, which torchmetrics has
        "torchmetrics.Accuracy",
        {"class_path": "encoders.image.ResNet", "init_args": {"width": {"class_path": "os.system"}}},
    ],
)
def test_nor_deeper_in_or_by_a_short_name(spec):
    with pytest.raises(ContrastiveError, match="cannot build"):
        build_module(spec)


@pytest.mark.parametrize("data", [{"class_path": "antigravity.Fly"}, "antigravity.Fly"])
def test_nor_as_the_data_that_it_was_trained_on(data):
    with pytest.raises(ContrastiveError, match=f"cannot build antigravity.Fly: .*set {TRUST}="):
        build_data({"data": data})
    assert "antigravity" not in sys.modules


def test_data_have_the_seed_of_the_run_and_may_be_a_file_called_as_a_package_is():
    spec = {"class_path": "contrastive.data.links.LinkData", "init_args": {"source": "random.csv"}}
    assert build_data({"data": spec, "seed_everything": 3}).seed == 3
    assert build_data({"data": spec}).seed == 0


def test_packages_that_are_trusted_and_ones_own_are_built(monkeypatch, tmp_path):
    identity = {"class_path": "torchvision.ops.Permute", "init_args": {"dims": [0, 1]}}
    with pytest.raises(ContrastiveError, match="torchvision"):
        build_module(identity)
    assert build_module(identity, own=True).dims == [0, 1]
    monkeypatch.setenv(TRUST, "timm, torchvision")
    assert build_module(identity).dims == [0, 1]
    (tmp_path / "my_networks_here.py").write_text(
        "from torch.nn import Identity\nclass Mine(Identity): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert type(build_module({"class_path": "my_networks_here.Mine"})).__name__ == "Mine"


@pytest.mark.parametrize("name", ["TimmEncoder", "TorchvisionEncoder"])
def test_a_preprocess_that_would_fetch_weights_is_refused(export, name):
    options = {"TimmEncoder": {"pretrained": True}, "TorchvisionEncoder": {"weights": "DEFAULT"}}[name]
    spec = {"class_path": f"encoders.pretrained.{name}", "init_args": {"name": "resnet18", **options}}
    inner = {"class_path": "torch.nn.Sequential", "init_args": {"args": [spec]}}
    for preprocess in (spec, inner):
        with pytest.raises(ContrastiveError, match="would fetch weights"):
            contrastive.load_encoder(export(preprocess=preprocess))
