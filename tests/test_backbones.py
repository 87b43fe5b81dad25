"""Weights that go from here to torchvision and timm, and back."""

import pytest
import torch
import torchvision
from torch import nn

from contrastive.backbones import from_torchvision, resnet_name, to_timm, to_torchvision
from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder, default_preprocess
from encoders.image import ResNet, SmallCNN
from encoders.pretrained import TimmEncoder, TorchvisionEncoder


def trained(model):
    """A network in eval mode whose batch norms and biases are not those of the start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.1, 0.1)
                layer.running_var.uniform_(0.5, 2)
                layer.bias.uniform_(-0.1, 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 40, 40)


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_a_resnet_drops_into_torchvision_and_comes_back(depth, images):
    ours = trained(ResNet(depth=depth, stem="imagenet"))
    theirs = torchvision.models.get_model(f"resnet{depth}")
    theirs.fc = nn.Identity()
    theirs.load_state_dict(to_torchvision(ours))  # strictly
    torch.testing.assert_close(theirs.eval()(images), ours(images))
    torch.testing.assert_close(from_torchvision(theirs.state_dict()).eval()(images), ours(images))
    assert resnet_name(ours) == f"resnet{depth}"


@torch.no_grad()
def test_a_resnet_drops_into_timm_and_comes_back(images):
    timm = pytest.importorskip("timm")
    ours = trained(ResNet(depth=18, stem="imagenet"))
    theirs = timm.create_model("resnet18", num_classes=0).eval()
    theirs.load_state_dict(to_timm(FrozenEncoder(ours, nn.Identity())))
    torch.testing.assert_close(theirs(images), ours(images))
    torch.testing.assert_close(from_torchvision(theirs.state_dict()).eval()(images), ours(images))


@torch.no_grad()
def test_torchvisions_classifier_is_left_out(images):
    theirs = trained(torchvision.models.resnet34())
    ours = from_torchvision(theirs.state_dict()).eval()
    theirs.fc = nn.Identity()
    torch.testing.assert_close(ours(images), theirs(images))


def test_depth_width_stem_and_channels_follow_from_the_weights():
    for arguments in (
        {"depth": 50, "width": 8, "in_channels": 1},
        {"depth": 34, "width": 16, "stem": "imagenet"},
    ):
        state = ResNet(**arguments).state_dict()
        found = from_torchvision(state)
        assert found.depth == arguments["depth"]
        assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())


@torch.no_grad()
def test_other_networks_give_their_own_state_dict(images):
    ours = trained(TorchvisionEncoder(name="mobilenet_v3_small"))
    theirs = torchvision.models.mobilenet_v3_small()
    theirs.classifier[3] = nn.Identity()
    theirs.load_state_dict(to_torchvision(FrozenEncoder(ours, default_preprocess(ours))))
    torch.testing.assert_close(theirs.eval()(images), ours(images))
    timm = pytest.importorskip("timm")
    ours = trained(TimmEncoder(name="resnet10t"))
    theirs = timm.create_model("resnet10t", num_classes=0).eval()
    theirs.load_state_dict(to_timm(ours))
    torch.testing.assert_close(theirs(images), ours(images))


@pytest.mark.parametrize(
    "encoder,message",
    [
        (lambda: ResNet(), "no ResNet of width 64 with the small stem"),
        (lambda: ResNet(width=8, stem="imagenet"), "no ResNet of width 8 with the imagenet stem"),
        (lambda: SmallCNN(), "no SmallCNN"),
    ],
)
def test_what_the_others_do_not_have_is_named(encoder, message):
    for convert in (to_torchvision, to_timm):
        with pytest.raises(ContrastiveError, match=message):
            convert(encoder())


def test_a_state_dict_of_another_network_is_named():
    with pytest.raises(ContrastiveError, match="is no ResNet of 18 to 152 layers.*features.0.0.weight"):
        from_torchvision(torchvision.models.mobilenet_v3_small().state_dict())
    with pytest.raises(ContrastiveError, match="of another shape"):
        from_torchvision(torchvision.models.wide_resnet50_2().state_dict())
    with pytest.raises(ContrastiveError, match="is no ResNet"):
        from_torchvision({})
