"""Lower rates for earlier layers in fine-tuning: which layer is earlier, a forward pass tells."""

import pytest
import torch
from torch import nn

from contrastive.evaluation.finetune import _groups, _Network, blocks
from contrastive.evaluation.protocol import Finetuning
from contrastive.features import FrozenEncoder
from encoders.graph import GraphEncoder
from encoders.graph_batch import GraphBatch
from encoders.image import ResNet, SmallCNN
from encoders.pretrained import TorchvisionEncoder

DECAY = Finetuning(lr=1.0, layer_decay=0.5)
IMAGES = {
    "small": (lambda: SmallCNN(in_channels=3), 10),  # a convolution, its norm, …
    "resnet18": (lambda: ResNet(depth=18), 10),
    "convnext_tiny": (lambda: TorchvisionEncoder(name="convnext_tiny"), 27),
    "efficientnet_b0": (lambda: TorchvisionEncoder(name="efficientnet_b0"), 20),
    "googlenet": (lambda: TorchvisionEncoder(name="googlenet"), 12),
    "swin_t": (lambda: TorchvisionEncoder(name="swin_t"), 18),
    "vit_b_16": (lambda: TorchvisionEncoder(name="vit_b_16"), 14),
}
GRAPHS = {
    "norms": {},
    "no norms": {"norm": False},
    "one layer": {"norm": False, "num_layers": 1},
    "virtual nodes": {"readout": "virtual_node"},
}


def rates_as_run(encoder, input):
    """The rates of the layers that have parameters of their own, in the order in which they run first."""
    network = _Network(FrozenEncoder(encoder, nn.Identity(), None), 3, DECAY, False)
    groups = _groups(network, DECAY)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate.keys() == {id(p) for p in network.parameters()}
    assert len(rate) == sum(len(group["params"]) for group in groups)
    run = []
    for layer in network.modules():
        layer.register_forward_pre_hook(lambda layer, _: run.append(layer))
    network.eval()(input)
    return [rate[id(p)] for layer in dict.fromkeys(run) for p in layer.parameters(recurse=False)]


def check(encoder, input, num_blocks):
    found = rates_as_run(encoder, input)
    assert found == sorted(found)
    assert set(found) == {DECAY.layer_decay**depth for depth in range(num_blocks + 1)}
    assert len(blocks(encoder)) == num_blocks


@pytest.mark.parametrize(("make", "num_blocks"), IMAGES.values(), ids=IMAGES)
def test_images(make, num_blocks):
    with torch.device("meta"):  # shapes without numbers
        check(make(), torch.zeros(2, 3, 224, 224), num_blocks)


@pytest.mark.parametrize("options", GRAPHS.values(), ids=GRAPHS)
def test_graphs(options):
    options = {"num_layers": 3} | options
    encoder = GraphEncoder(node_features=[4], num_hidden=8, **options)
    ring = GraphBatch.from_edges(torch.tensor([[0, 1], [1, 2], [2, 0]]), torch.tensor([[0], [3], [1]]))
    check(encoder, ring, 1 + options["num_layers"])  # the embedding; a layer goes with its norm


def test_stages_come_one_after_another():
    """A list of lists, and lists of several lengths, are no layers with their norms."""
    stages = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]) for _ in range(2)])
    assert blocks(nn.ModuleDict({"stages": stages})) == [block for stage in stages for block in stage]
    uneven = nn.Module()
    uneven.hidden, uneven.write = (nn.ModuleList(nn.Linear(2, 2) for _ in range(n)) for n in (2, 3))
    assert blocks(uneven) == [*uneven.hidden, *uneven.write]
