"""Which depths the papers' networks can have, and a bound of their memory. Needs no torch, which is slow to import."""

from collections.abc import Iterable, Mapping
from typing import Any

# Weighted layers of a unit. On CIFAR three stages of n such units, and two layers more, make the depth.
LAYERS_OF_UNIT = {"single": 1, "basic": 2, "bottleneck": 3}

# he2015, Table 1; 200 layers: he2016, Section 5 (16 bottleneck units more than 152, at 28x28).
IMAGENET_STAGES = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
# A unit or two in each stage, for a scale that only demonstrates.
SHORT_IMAGENET_STAGES = {
    10: ("basic", (1, 1, 1, 1)),
    14: ("bottleneck", (1, 1, 1, 1)),
    26: ("bottleneck", (2, 2, 2, 2)),
}
VGG_DEPTHS = (16, 19)
SHORT_VGG_DEPTH = 8  # a convolution in each stage, for a scale that only demonstrates
NO_CONVOLUTION = (None, "identity", "none", "scaled", "dropout")  # shortcuts; None: VGG has none
VGG_SIZE = 224  # height and width of its images: the first linear layer depends on them
VGG_STRIDE = 32  # that they must be a multiple of


def units_per_stage(unit: str, depth: int) -> int:
    """Units in each of a CIFAR network's stages: n of depth 6n+2 (basic) or 9n+2 (bottleneck), 2n of 6n+2 (single).

    he2015, Section 4.2; he2016, Appendix and Table 3 ("1-layer skip").

    Raises:
        ValueError: no such unit, or a depth that it cannot make.
    """
    if not isinstance(depth, int):
        raise ValueError(f"depth {depth!r} is not a whole number")
    if unit not in LAYERS_OF_UNIT:
        raise ValueError(f"unit {unit!r} is none of {', '.join(LAYERS_OF_UNIT)}")
    period = 9 if unit == "bottleneck" else 6
    if depth < period + 2 or (depth - 2) % period:
        lower = max(period + 2, depth - (depth - 2) % period)
        raise ValueError(f"depth {depth} is not {period}n+2, which {unit} units need: take {lower} or {lower + period}")
    return (depth - 2) // (3 * LAYERS_OF_UNIT[unit])


def stages(family: str, unit: str, depth: int) -> tuple[int, ...]:
    """Residual units in each stage of a network of a family; VGG has none.

    Raises:
        ValueError: no such family, no such unit, or a depth that they cannot make.
    """
    if family == "cifar":
        return (units_per_stage(unit, depth),) * 3
    if family == "imagenet":
        known = IMAGENET_STAGES | SHORT_IMAGENET_STAGES
        if depth not in known:
            raise ValueError(f"depth {depth} is none of the papers' on ImageNet: {_listed(IMAGENET_STAGES)}")
        wanted, counts = known[depth]
        if unit != wanted:
            raise ValueError(f"unit {unit!r}: {depth} layers on ImageNet have {wanted} units: write unit: {wanted}")
        return counts
    if family == "vgg":
        if depth not in (*VGG_DEPTHS, SHORT_VGG_DEPTH):
            raise ValueError(f"depth {depth} is none of VGG's: {_listed(VGG_DEPTHS)}")
        return ()
    raise ValueError(f"family {family!r} is none of cifar, imagenet, vgg")


def bound_activations(network: Mapping[str, Any], size: int) -> int:
    """Bytes that a forward pass keeps of one image for the backward pass, at most.

    For each output of a convolution the papers' networks keep at most 2.6 numbers of 4 bytes: it, batch norm's output
    and one more are 3. The layers of the first stage have the most outputs, and all are taken for such.

    Args:
        network: as in an experiment's resolved parameters.
        size: height and width of the image.
    """
    channels, stride = {"cifar": (16, 1), "imagenet": (64, 4), "vgg": (64, 1)}[network.get("family") or "cifar"]
    narrow = network.get("unit") != "bottleneck" and network.get("shortcut", {}).get("kind") in NO_CONVOLUTION
    outputs = network["depth"] * channels * (size // stride) ** 2 * (1 if narrow else 2)
    return 3 * 4 * outputs


def _listed(depths: Iterable[int]) -> str:
    return ", ".join(map(str, depths))
