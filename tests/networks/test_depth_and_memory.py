"""Which depths there are, what they weigh, and that the deepest networks of the papers can be made and trained."""

import os
import re
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from identity_mappings.networks.cost import weights
from identity_mappings.networks.depth import IMAGENET_STAGES, LAYERS_OF_UNIT, VGG_DEPTHS, stages
from identity_mappings.networks.resnet import CifarResNet, ImageNetResNet
from identity_mappings.networks.vgg import Vgg
from identity_mappings.training import memory

GIB = 2**20  # in the kilobytes of ru_maxrss on Linux
DEEPEST = {
    1001: {"unit": "bottleneck", "activation": "full-pre-activation", "shape_change": "B"},
    1202: {"unit": "basic", "activation": "original", "shape_change": "A"},
}
TRAINS = """
import resource, sys, time
import torch
from identity_mappings.networks.resnet import CifarResNet

torch.set_num_threads(1)
torch.manual_seed(0)
started = time.perf_counter()
network = CifarResNet({depth}, **{arguments})
built = time.perf_counter() - started
scores = network(torch.randn(8, 3, 32, 32))
torch.nn.functional.cross_entropy(scores, torch.arange(8)).backward()
assert scores.shape == (8, 10)
assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, built)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
@pytest.mark.parametrize("depth", DEEPEST)
def test_deepest_networks_train_a_batch_of_8_in_4_gib(depth):
    """In a process of its own, since the peak is the process's. Every weight gets a finite gradient."""
    script = TRAINS.format(depth=depth, arguments=DEEPEST[depth])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, text=True, capture_output=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    peak, built = map(float, done.stdout.split())
    report = f"ResNet-{depth}: peak {peak / GIB:.2f} GiB, built in {built:.2f} s"
    print(report)
    assert peak < 4 * GIB, report


def on_meta(kind, *arguments, **options):
    """A network to count: its tensors hold no numbers."""
    with torch.device("meta"):
        return kind(*arguments, **options)


def unit_of(depth):
    return IMAGENET_STAGES[depth][0]


def torchvisions(depth):
    """torchvision has 200 layers only as the class."""
    if depth == 200:
        return on_meta(ResNet, Bottleneck, [3, 24, 36, 3])
    return on_meta(getattr(torchvision.models, f"resnet{depth}"))


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152, 200])
def test_imagenet_weights_are_torchvisions(depth):
    """Option B; with batch norm and without; the shapes too, in the order of the layers."""
    theirs = torchvisions(depth)
    parameters = list(theirs.parameters())
    ours = on_meta(ImageNetResNet, depth, unit=unit_of(depth), shape_change="B")
    assert weights(ours) == sum(p.numel() for p in parameters) == sum(p.numel() for p in ours.parameters())
    without = [p for m in theirs.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) for p in m.parameters()]
    assert weights(ours, batch_norm=False) == sum(p.numel() for p in without)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in parameters]


@pytest.mark.parametrize("depth", IMAGENET_STAGES)
def test_imagenet_depth_counts_the_weighted_layers(depth):
    """A convolution in F each, the stem's, and the linear layer (he2015, Table 1); the stride begins stages 2 to 4."""
    unit, counts = IMAGENET_STAGES[depth]
    network = on_meta(ImageNetResNet, depth, unit=unit)
    convolutions = [[m for m in u.residual.modules() if isinstance(m, nn.Conv2d)] for u in network.units]
    assert sum(map(len, convolutions)) + 2 == depth
    assert len(network.units) == sum(counts)
    expansion = 4 if unit == "bottleneck" else 1
    widths = [width * expansion for width, count in zip((64, 128, 256, 512), counts, strict=True) for _ in range(count)]
    assert [found[-1].out_channels for found in convolutions] == widths
    firsts = {0, counts[0], sum(counts[:2]), sum(counts[:3])}
    strides = [{m.stride for m in found} - {(1, 1)} for found in convolutions]
    assert strides == [{(2, 2)} if index in firsts - {0} else set() for index in range(sum(counts))]
    assert network.linear.in_features == 512 * expansion


def test_resnet_200_has_16_units_more_than_152_at_28x28():
    """he2016, Section 5: blocks 3, 24, 36, 3."""
    assert stages("imagenet", "bottleneck", 200) == (3, 24, 36, 3)
    more = [a - b for a, b in zip(stages("imagenet", "bottleneck", 200), (3, 8, 36, 3), strict=True)]
    assert more == [0, 16, 0, 0]
    assert stages("imagenet", "bottleneck", 152) == (3, 8, 36, 3)
    network = on_meta(ImageNetResNet, 200, unit="bottleneck", activation="full-pre-activation", shape_change="B")
    sizes = []
    for unit in network.units:
        unit.register_forward_hook(lambda *arguments: sizes.append(tuple(arguments[-1].shape[1:])))
    network.train()(torch.empty(2, 3, 224, 224, device="meta"))
    wanted = [(256, 56)] * 3 + [(512, 28)] * 24 + [(1024, 14)] * 36 + [(2048, 7)] * 3
    assert sizes == [(channels, side, side) for channels, side in wanted]


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_plain_networks_have_the_weights_of_their_resnets(depth):
    """he2015, Section 4.2: option A, "so our residual models have exactly the same depth, width, and number of
    parameters as the plain counterparts"."""
    plain = on_meta(CifarResNet, depth, shortcut={"kind": "none"})
    residual = on_meta(CifarResNet, depth, shape_change="A")

    def shapes(network, kind):
        return [(name, m.weight.shape, m.stride) for name, m in network.named_modules() if isinstance(m, kind)]

    assert shapes(plain, nn.Conv2d) == shapes(residual, nn.Conv2d)
    assert len(shapes(plain, nn.Conv2d)) == depth - 1
    assert [(name, p.shape) for name, p in plain.named_parameters()] == [
        (name, p.shape) for name, p in residual.named_parameters()
    ]
    assert weights(plain) == weights(residual)
    assert weights(plain) < weights(on_meta(CifarResNet, depth, shape_change="B"))


@pytest.mark.parametrize("family, unit, depth", [("resnext", "basic", 20), ("", "basic", 18), ("CIFAR", "basic", 20)])
def test_unknown_families_are_refused_with_those_that_are_known(family, unit, depth):
    with pytest.raises(ValueError, match=rf"^family '{family}' is none of cifar, imagenet, vgg$") as caught:
        stages(family, unit, depth)
    known = {"cifar": (unit, 20), "imagenet": ("basic", 18), "vgg": (unit, 16)}
    for named in str(caught.value).partition("none of ")[2].split(", "):
        stages(named, *known.pop(named))
    assert not known


@pytest.mark.parametrize(
    "unit, depth",
    [(unit, depth) for unit in LAYERS_OF_UNIT for depth in (-7, 0, 1, 2, 3, 7, 9, 21, 111, 1000, 1201, 1203)]
    + [("single", 1001), ("basic", 1001), ("bottleneck", 1202)],
)
def test_impossible_cifar_depths_name_the_nearest_possible_ones(unit, depth):
    period = {"single": 6, "basic": 6, "bottleneck": 9}[unit]
    with pytest.raises(ValueError, match=rf"^depth {depth} is not {period}n\+2, which {unit} units need: ") as caught:
        stages("cifar", unit, depth)
    lower, upper = map(int, re.search(r"take (\d+) or (\d+)$", str(caught.value)).groups())
    assert upper == lower + period
    assert lower < depth < upper or (depth < lower == period + 2)
    for possible in (lower, upper):
        assert len(set(stages("cifar", unit, possible))) == 1


@pytest.mark.parametrize("depth", [-18, 0, 19, 20, 110, 164, 1001])
def test_impossible_imagenet_depths_name_all_possible_ones(depth):
    with pytest.raises(ValueError, match=rf"^depth {depth} is none of the papers' on ImageNet: ") as caught:
        ImageNetResNet(depth)
    named = [int(number) for number in str(caught.value).partition("ImageNet: ")[2].split(", ")]
    assert named == [18, 34, 50, 101, 152, 200]
    for possible in named:
        assert len(stages("imagenet", unit_of(possible), possible)) == 4


@pytest.mark.parametrize(
    "unit, depth",
    [(unit, depth) for unit in ("single", "wide") for depth in IMAGENET_STAGES]
    + [("bottleneck", 18), ("bottleneck", 34), ("basic", 50), ("basic", 101), ("basic", 152), ("basic", 200)],
)
def test_wrong_units_on_imagenet_name_the_right_ones(unit, depth):
    with pytest.raises(ValueError, match=rf"^unit '{unit}': .*\b{depth} layers .* write unit: (\w+)$") as caught:
        ImageNetResNet(depth, unit=unit)
    cure = re.search(r"write unit: (\w+)$", str(caught.value)).group(1)
    assert sum(stages("imagenet", cure, depth)) * LAYERS_OF_UNIT[cure] + 2 == depth


@pytest.mark.parametrize("depth", [11, 13, 18, 0])
def test_impossible_vgg_depths_name_the_possible_ones(depth):
    with pytest.raises(ValueError, match=rf"^depth {depth} is none of VGG's: 16, 19$"):
        Vgg(depth)
    assert [stages("vgg", "basic", possible) for possible in VGG_DEPTHS] == [(), ()]


@pytest.mark.parametrize("unit, depth", [("wide", 20), ("Basic", 20), ("", 110)])
def test_unknown_cifar_units_name_the_known_ones(unit, depth):
    with pytest.raises(ValueError, match=rf"^unit '{unit}' is none of single, basic, bottleneck$"):
        stages("cifar", unit, depth)


@pytest.mark.parametrize("wrong", ["pooling", "", "after_pooling", True])
def test_unknown_stem_activations_name_the_known_ones(wrong):
    with pytest.raises(ValueError, match=rf"^stem_activation {wrong!r} is neither before-pooling nor after-pooling$"):
        on_meta(ImageNetResNet, 18, stem_activation=wrong)


def test_resnet_200_at_32_images_fits_in_24_gb():
    """In float32, counted: what the backward pass needs, weights, gradients, momentum, and what DDP holds."""
    with torch.device("meta"):
        network = ImageNetResNet(200, unit="bottleneck", shape_change="B")
    kept = memory.count_kept_bytes(network, 32, (3, 224, 224))
    assert kept == pytest.approx(8.0e9, rel=0.01), "as the README has it"
    assert kept + 4 * sum(p.nbytes for p in network.parameters()) < 0.7 * 24e9
