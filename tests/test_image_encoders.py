import pytest
import torch
import torchvision

from encoders.heads import MLPHead
from encoders.image import ResNet, SmallCNN


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_resnet_is_torchvisions_at_the_papers_width(depth):
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=1)
    ours = ResNet(depth=depth, stem="imagenet")
    weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(weights)
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
    assert ours.num_features == theirs(images).shape[1]


@pytest.mark.parametrize("width,channels", [(8, 1), (24, 3), (16, 5)])
def test_resnet_takes_any_width_and_number_of_channels(width, channels):
    encoder = ResNet(width=width, in_channels=channels)
    assert encoder(torch.randn(2, channels, 32, 32)).shape == (2, encoder.num_features) == (2, 8 * width)


def test_the_small_stem_keeps_the_resolution():
    encoder = ResNet(stem="small", width=8)
    assert encoder.maxpool(encoder.conv1(torch.randn(1, 3, 32, 32))).shape[-2:] == (32, 32)


def test_an_unknown_stem_is_refused():
    with pytest.raises(ValueError, match="stem is 'cifar'; choose small or imagenet"):
        ResNet(stem="cifar")


def test_an_unknown_depth_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="19; choose one of 18, 34, 50, 101, 152"):
        ResNet(depth=19)


@pytest.mark.parametrize("size", [8, 12, 28, 32])
def test_small_cnn_takes_small_images_of_any_size(size):
    assert SmallCNN(num_features=40)(torch.randn(2, 1, size, size)).shape == (2, 40)


def test_head_has_the_layers_asked_for():
    head = MLPHead(10, hidden_features=20, out_features=5, num_layers=3)
    linear = [(m.in_features, m.out_features) for m in head if isinstance(m, torch.nn.Linear)]
    assert linear == [(10, 20), (20, 20), (20, 5)]
    assert [m.in_features for m in MLPHead(7, num_layers=1) if isinstance(m, torch.nn.Linear)] == [7]
    with pytest.raises(ValueError, match="at least 1"):
        MLPHead(10, num_layers=0)
