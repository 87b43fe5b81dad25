"""Encoders of images: ``(N, C, H, W)`` float to features ``h`` of ``(N, num_features)``."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

RESNET_BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A residual network (He et al. 2015, arXiv 1512.03385) of any width, without its classifier.

    The blocks are torchvision's, and so are the parameter names: at ``width=64`` with the ImageNet stem the
    state dict is torchvision's less ``fc``.

    Args:
        depth: 18, 34, 50, 101 or 152.
        width: channels of the first stage (64 in the paper); the others follow by doubling.
        stem: ``"small"`` is a 3×3 convolution of stride 1 and no pooling, as SimCLR uses for CIFAR;
            ``"imagenet"`` is 7×7 of stride 2 and a max-pool.
        in_channels: channels of the images.

    Raises:
        ValueError: a depth or stem that is not listed.
    """

    def __init__(
        self,
        *,
        depth: int = 18,
        width: int = 64,
        stem: Literal["small", "imagenet"] = "small",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if depth not in RESNET_BLOCKS:
            raise ValueError(f"ResNet depth is {depth}; choose one of {', '.join(map(str, RESNET_BLOCKS))}")
        if stem not in ("small", "imagenet"):
            raise ValueError(f"ResNet stem is {stem!r}; choose small or imagenet")
        block, num_blocks = RESNET_BLOCKS[depth]
        small = stem == "small"
        self.depth = depth
        self.conv1 = nn.Conv2d(
            in_channels, width, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        in_planes = width
        for i, count in enumerate(num_blocks):
            planes = width * 2**i
            self.add_module(
                f"layer{i + 1}", _stage(block, in_planes, planes, count, stride=1 if i == 0 else 2)
            )
            in_planes = planes * block.expansion
        self.num_features = in_planes
        _init_convolutions(self)

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``(N, in_channels, H, W)`` as ``(N, num_features)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))


def _stage(
    block: type[BasicBlock | Bottleneck], in_planes: int, planes: int, count: int, stride: int
) -> nn.Sequential:
    out_planes = planes * block.expansion
    shortcut = None
    if stride != 1 or in_planes != out_planes:
        shortcut = nn.Sequential(
            nn.Conv2d(in_planes, out_planes, 1, stride, bias=False), nn.BatchNorm2d(out_planes)
        )
    # A torchvision Bottleneck multiplies its width by base_width / 64, so 64 leaves ``planes`` as it is.
    first = block(in_planes, planes, stride, shortcut)
    return nn.Sequential(first, *(block(out_planes, planes) for _ in range(count - 1)))


class SmallCNN(nn.Module):
    """Four convolutions and one hidden layer, for images of 8 to 32 pixels: 0.7 M parameters.

    The feature map is flattened, not averaged, from a 2×2 grid: where a stroke lies tells digits apart.

    Args:
        in_channels: channels of the images.
        width: channels of the first convolution; the next ones have 2, 4 and 8 times as many.
        num_features: width of the features ``h``.
    """

    def __init__(self, *, in_channels: int = 1, width: int = 32, num_features: int = 256) -> None:
        super().__init__()
        self.num_features = num_features
        self.layers = nn.Sequential(
            *_convolution(in_channels, width),
            *_convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width),
            nn.AdaptiveMaxPool2d(2),
            *_convolution(4 * width, 8 * width),
            nn.Flatten(),
            nn.Linear(32 * width, num_features, bias=False),
            nn.BatchNorm1d(num_features),
            nn.ReLU(inplace=True),
        )
        _init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``(N, in_channels, H, W)`` as ``(N, num_features)``."""
        return self.layers(x)


def _convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def _init_convolutions(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
