"""The two halves of a backbone, RoI pooling, frozen batch norm, and what each step of the training moves."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d, roi_pool

from identity_mappings.detection.networks import STRIDE, Detector, RegionPooling, build_backbone, split
from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.networks.resnet import ImageNetResNet
from identity_mappings.networks.vgg import Vgg

RESNET = {
    "family": "imagenet",
    "depth": 14,
    "unit": "bottleneck",
    "shape_change": "B",
    "shortcut": {"kind": "identity"},
}
CHOSEN = {"classes": 10, "size": 32, "batch_norm_eps": 1e-5, "dropout": None}


def trained_resnet(replicas: int = 2) -> ImageNetResNet:
    torch.manual_seed(0)
    network = ImageNetResNet(14, 10, unit="bottleneck", shape_change="B", replicas=replicas)
    for module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.channels).expand_as(module.running_mean) / 5)
            module.running_var.copy_((0.5 + torch.rand(module.channels)).expand_as(module.running_var))
            nn.init.normal_(module.weight, 1, 0.1)
    return network.eval()


def test_the_halves_of_a_resnet_are_the_network_with_its_batch_norm_frozen():
    network, x = trained_resnet(), torch.randn(2, 3, 64, 96)
    again = build_backbone(RESNET, CHOSEN, network.state_dict())
    assert not [module for module in again.modules() if isinstance(module, BatchNorm2d)]
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in again.modules()) == sum(
        isinstance(module, BatchNorm2d) for module in network.modules()
    )
    body, head = split(again, RESNET, 2)
    features = body.train()(x)
    assert features.shape == (2, 1024, 64 // STRIDE, 96 // STRIDE)
    torch.testing.assert_close(again.linear(head.train()(features)), network(x), rtol=1e-4, atol=1e-4)
    fixed = {name for name, parameter in body.named_parameters() if not parameter.requires_grad}
    assert fixed == {name for name, _ in body.named_parameters() if name.startswith(("0.", "1."))}  # conv1, conv2_x


def test_the_halves_of_a_vgg_are_the_network():
    torch.manual_seed(0)
    network, x = Vgg(16, 10, size=32, dropout=0.5).eval(), torch.randn(2, 3, 32, 32)
    again = build_backbone({"family": "vgg", "depth": 16}, CHOSEN | {"dropout": 0.5}, network.state_dict()).eval()
    body, head = split(again, {"family": "vgg", "depth": 16}, 2)
    features = body(x)
    assert features.shape == (2, 512, 2, 2)
    pooled = RegionPooling("pool", 1)({"0": features}, [torch.tensor([[0.0, 0, 31, 31]])] * 2)
    torch.testing.assert_close(again.linear[-1](head(pooled)), network(x), rtol=1e-4, atol=1e-5)
    convolutions = [module for module in body if isinstance(module, nn.Conv2d)]
    assert [conv.weight.requires_grad for conv in convolutions] == [False] * 4 + [True] * 9  # conv1_x and conv2_x


def test_region_pooling_and_its_gradient_are_torchvisions():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 9, 11, dtype=torch.double, requires_grad=True)
    boxes = [torch.rand(n, 4, dtype=torch.double) * 60 for n in (3, 4)]
    boxes = [torch.cat([b[:, :2], b[:, :2] + b[:, 2:] + 1], 1) for b in boxes]
    boxes[0][0] = torch.tensor([500.0, 500, 600, 600])  # outside: empty bins
    ours = RegionPooling("pool", 3)({"0": x}, boxes)
    theirs = roi_pool(x, boxes, 3, 1 / STRIDE)
    assert torch.equal(ours, theirs)
    weights = torch.randn_like(ours)
    gradients = [torch.autograd.grad((pooled * weights).sum(), x)[0] for pooled in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert gradients[0].abs().sum() > 0


@pytest.fixture(scope="module")
def detector(detection):
    def make(**recipe) -> Detector:
        parameters = copy.deepcopy(detection(**recipe).parameters)
        parameters["network"] = RESNET
        return Detector(parameters, trained_resnet().state_dict(), 0).train()

    return make


IMAGE = (torch.rand(3, 96, 96) * 255,)
TARGET = {"boxes": torch.tensor([[10.0, 10, 40, 42]]), "labels": torch.tensor([2])}


@pytest.mark.parametrize(
    ("step", "moved"),
    [
        ("joint", {"backbone", "rpn", "roi_heads"}),
        ("rpn", {"backbone", "rpn"}),
        ("detector", {"backbone", "roi_heads"}),
        ("rpn on shared layers", {"rpn"}),
        ("detector on shared layers", {"roi_heads"}),
    ],
)
def test_each_step_moves_its_own_weights(detector, step, moved):
    network = detector()
    network.proposer = copy.deepcopy(network.backbone).requires_grad_(False)
    torch.manual_seed(1)
    loss, wrong, regions = network(list(IMAGE), [dict(TARGET)], step)
    loss.backward()
    with_gradient = {name.partition(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient == moved and loss.isfinite()
    assert (regions > 0) == ("roi_heads" in moved) and 0 <= int(wrong) <= max(regions, 0)


def test_frozen_stages_keep_their_weights(detector):
    network = detector(frozen_stages=2)
    torch.manual_seed(1)
    network(list(IMAGE), [dict(TARGET)], "joint")[0].backward()
    with_gradient = {
        name.split(".")[1]
        for name, p in network.backbone.named_parameters()
        if p.grad is not None
        for name in (f"x.{name}",)
    }
    assert with_gradient == {"2", "3"}  # conv3_x and conv4_x


def test_roi_align_is_a_key(detector):
    torch.manual_seed(1)
    pooled, aligned = (detector(roi=kind).roi_heads.box_roi_pool for kind in ("pool", "align"))
    x, boxes = {"0": torch.randn(1, 4, 8, 8)}, [torch.tensor([[3.0, 5, 70, 90]])]
    assert pooled(x, boxes).shape == aligned(x, boxes).shape
    assert not torch.allclose(pooled(x, boxes), aligned(x, boxes))


def test_new_layers_are_drawn_from_the_seed(detection):
    state = trained_resnet().state_dict()

    def drawn(seed: int) -> torch.Tensor:
        parameters = {**detection().parameters, "network": RESNET}
        return Detector(parameters, state, seed).roi_heads.box_predictor.cls_score.weight

    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))
    assert abs(float(drawn(0).detach().std()) - 0.01) < 0.001
