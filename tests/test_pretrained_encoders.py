"""Every image encoder: its width, its place in a run, and weights that come from elsewhere."""

import json
import re
import sys
import warnings

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from augmentations.colour import Normalize
from augmentations.image import simclr
from contrastive.building import build_module
from contrastive.features import load_encoder
from contrastive.module import ContrastiveModule
from encoders.image import ResNet
from encoders.pretrained import TimmEncoder, TorchvisionEncoder

TORCHVISION = "encoders.pretrained.TorchvisionEncoder"
TIMM = "encoders.pretrained.TimmEncoder"
ENCODERS = {
    "resnet": ("encoders.image.ResNet", {"width": 8}, 32),
    "small_cnn": ("encoders.image.SmallCNN", {"width": 8, "in_channels": 3}, 16),
    "tv_resnet18": (TORCHVISION, {"name": "resnet18"}, 32),
    "tv_squeezed": (TORCHVISION, {"name": "mobilenet_v3_small"}, 32),
    "tv_shufflenet": (TORCHVISION, {"name": "shufflenet_v2_x0_5"}, 32),
    "tv_convnext": (TORCHVISION, {"name": "convnext_tiny"}, 32),
    "tv_efficientnet": (TORCHVISION, {"name": "efficientnet_b0"}, 32),
    "tv_mnasnet": (TORCHVISION, {"name": "mnasnet0_5"}, 32),
    "tv_vit": (TORCHVISION, {"name": "vit_b_32", "image_size": 64}, 64),
    "timm_convnext": (TIMM, {"name": "convnext_atto"}, 32),
    "timm_vit": (TIMM, {"name": "vit_tiny_patch16_224", "image_size": 32, "drop_path": 0.1}, 32),
    "timm_mobilenet": (TIMM, {"name": "mobilenetv3_small_050"}, 32),
}


@pytest.mark.parametrize("class_path,arguments,size", ENCODERS.values(), ids=ENCODERS)
def test_encoder_has_the_width_it_says_and_opens_from_a_checkpoint(class_path, arguments, size, tmp_path):
    if class_path == TIMM:
        pytest.importorskip("timm")
    spec = {"class_path": class_path, "init_args": arguments}
    encoder = build_module(spec)
    images = torch.randn(2, 3, size, size)
    assert encoder.train()(images).shape == (2, encoder.num_features)
    weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save({"state_dict": weights, "config": {"model": {"encoder": spec}}}, tmp_path / "last.ckpt")
    opened = load_encoder(tmp_path / "last.ckpt")
    assert opened.num_features == encoder.num_features
    with torch.no_grad():
        torch.testing.assert_close(opened.encoder(images), encoder.eval()(images))


@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v3_small"])
def test_a_dropout_before_the_classifier_goes_with_it(name):
    encoder, images = TorchvisionEncoder(name=name).train(), torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder(images), encoder(images))


def test_a_vit_says_which_images_it_takes():
    with pytest.raises(ValueError, match="vit_b_32 cannot be built for an image_size of 40.*must divide it"):
        TorchvisionEncoder(name="vit_b_32", image_size=40)
    encoder = TorchvisionEncoder(name="vit_b_32", image_size=64)
    with pytest.raises(ValueError, match="not built for images of 48 × 32 pixels.* as image_size") as raised:
        encoder(torch.zeros(1, 3, 48, 32))
    assert "Expected 64 but got 48" in str(raised.value)


@pytest.mark.parametrize("name,head", [("resnet18", "fc"), ("convnext_tiny", "classifier.2")])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_features_are_what_torchvisions_classifier_sees(name, head, suffix, tmp_path):
    theirs = torchvision.models.get_model(name, num_classes=7)
    file = tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(theirs.state_dict(), file)
    ours = TorchvisionEncoder(name=name, weights=str(file)).eval()
    seen = {}
    theirs.get_submodule(head).register_forward_pre_hook(lambda module, inputs: seen.update(h=inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs.eval()(images)
        torch.testing.assert_close(ours(images), seen["h"])


@pytest.mark.parametrize("name", ["resnet18", "mnasnet0_5", "densenet121"])
def test_weights_as_torchvision_published_them_years_ago_load(name, tmp_path):
    theirs = torchvision.models.get_model(name).eval()
    state = {key: value for key, value in theirs.state_dict().items() if "num_batches_tracked" not in key}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): state[key] for key in state}
    torch.save(old, tmp_path / "w.pth")
    ours = TorchvisionEncoder(name=name, weights=str(tmp_path / "w.pth")).eval()
    *_, head = (layer for layer in theirs.modules() if isinstance(layer, nn.Linear))
    seen = {}
    head.register_forward_pre_hook(lambda module, inputs: seen.update(h=inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs(images)
        torch.testing.assert_close(ours(images), seen["h"])


def test_our_resnets_weights_and_torchvisions_are_interchangeable(tmp_path):
    ours = ResNet(depth=18, stem="imagenet").eval()
    torch.save(ours.state_dict(), tmp_path / "ours.pth")
    theirs = TorchvisionEncoder(name="resnet18", weights=str(tmp_path / "ours.pth")).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs(images), ours(images))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_weights_for_colour_serve_other_numbers_of_channels(channels, tmp_path):
    theirs = TorchvisionEncoder(name="resnet18").eval()
    torch.save(theirs.model.state_dict(), tmp_path / "w.pth")
    ours = TorchvisionEncoder(name="resnet18", weights=str(tmp_path / "w.pth"), in_channels=channels).eval()
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = theirs(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours(grey.expand(-1, channels, -1, -1)), expected, rtol=1e-4, atol=1e-4)


def test_a_vits_position_embeddings_are_interpolated(tmp_path):
    torch.save(TorchvisionEncoder(name="vit_b_32", image_size=64).model.state_dict(), tmp_path / "w.pth")
    larger = TorchvisionEncoder(name="vit_b_32", weights=str(tmp_path / "w.pth"), image_size=96)
    assert larger(torch.randn(1, 3, 96, 96)).shape == (1, 768)


def test_weights_that_do_not_fit_are_refused_with_their_keys(tmp_path):
    state = TorchvisionEncoder(name="resnet18").model.state_dict()
    state["layer9.weight"] = state.pop("bn1.bias")
    state["conv1.weight"] = state["conv1.weight"][:8]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"1 missing: bn1.bias; 1 unexpected: layer9.weight; 1 of another"):
        TorchvisionEncoder(name="resnet18", weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"name": "resnet19"}, "no 'resnet19'; choose one of resnet101"),
        ({"name": "squeezenet1_0"}, "does not end in a linear layer"),
        ({"name": "resnet18", "weights": "IMAGENET"}, "DEFAULT, IMAGENET1K_V1"),
        ({"name": "resnet18", "weights": "nowhere.pth"}, "no file of weights nowhere.pth"),
    ],
)
def test_what_torchvision_does_not_have_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        TorchvisionEncoder(**options)


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save({"state_dict": {}}, tmp_path / "nested.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "code.pth")
    for name, message in (
        ("text.safetensors", "no file"),
        ("nested.pth", "not a plain"),
        ("code.pth", "no file"),
    ):
        with pytest.raises(ValueError, match=message):
            TorchvisionEncoder(name="resnet18", weights=str(tmp_path / name))


def test_an_unknown_name_of_timms_is_refused_with_known_ones():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="no 'convnext_huger'.*convnext_atto"):
        TimmEncoder(name="convnext_huger")


@pytest.mark.parametrize("name,mean,told", [("vit_tiny_patch16_224", 0.5, 1), ("convnext_atto", 0.485, 0)])
def test_weights_of_timms_that_were_trained_on_images_normalised_otherwise_are_told_of(
    name, mean, told, monkeypatch
):
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    encoder = TimmEncoder(name=name, pretrained=True, image_size=32 if "vit" in name else None)
    assert encoder.trained_on[0][0] == mean
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ContrastiveModule(encoder, [simclr(size=32)])
        norm = {"mean": encoder.trained_on[0], "std": encoder.trained_on[1]}
        ContrastiveModule(encoder, [simclr(size=32, **norm)], preprocess=Normalize(**norm))
        ContrastiveModule(TimmEncoder(name=name), [simclr(size=32)])
    assert sum("give the views and model.preprocess theirs" in str(w.message) for w in caught) == told


def test_a_missing_timm_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="pip install timm"):
        TimmEncoder(name="convnext_atto")


def test_a_run_opens_without_the_weights_it_started_from(tmp_path):
    torch.save(TorchvisionEncoder(name="resnet18").model.state_dict(), tmp_path / "start.pth")
    arguments = {"name": "resnet18", "weights": str(tmp_path / "start.pth")}
    spec = {"class_path": TORCHVISION, "init_args": arguments}
    encoder = build_module(spec)
    (tmp_path / "start.pth").unlink()
    export = tmp_path / "export"
    export.mkdir()
    save_file(encoder.state_dict(), export / "model.safetensors")
    (export / "config.json").write_text(json.dumps({"model": {"encoder": spec}}))
    assert torch.equal(load_encoder(export).encoder.model.conv1.weight, encoder.model.conv1.weight)


def test_synchronised_batch_norm_keeps_a_checkpoints_keys():
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(ResNet(width=8))
    assert synchronised.state_dict().keys() == ResNet(width=8).state_dict().keys()
