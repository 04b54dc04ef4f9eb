"""The operations of units as figures draw them, against he2016, Figures 2, 4 and 5, written out by hand."""

import sys
from pathlib import Path

import pytest
from torch import nn

from identity_mappings.networks.resnet import CifarResNet, ImageNetResNet
from identity_mappings.networks.shortcuts import Shortcut
from identity_mappings.networks.unit_graph import operations

# A line is an operation: its branch, its label, and the numbers of the lines that feed it, x being line 0.
RESIDUAL = "r 3x3 conv, 16 < 0 | r BN < 1 | r ReLU < 2 | r 3x3 conv, 16 < 3 | r BN < 4"  # of unit (a)
FIGURE_4 = {
    "original": f"t x | {RESIDUAL} | t + < 0 5 | t ReLU < 6",
    "bn-after-addition": (
        "t x | r 3x3 conv, 16 < 0 | r BN < 1 | r ReLU < 2 | r 3x3 conv, 16 < 3 | t + < 0 4 | t BN < 5 | t ReLU < 6"
    ),
    "relu-before-addition": (
        "t x | r 3x3 conv, 16 < 0 | r BN < 1 | r ReLU < 2 | r 3x3 conv, 16 < 3 | r BN < 4 | r ReLU < 5 | t + < 0 6"
    ),
    "relu-only-pre-activation": (
        "t x | r ReLU < 0 | r 3x3 conv, 16 < 1 | r BN < 2 | r ReLU < 3 | r 3x3 conv, 16 < 4 | r BN < 5 | t + < 0 6"
    ),
    "full-pre-activation": (
        "t x | r BN < 0 | r ReLU < 1 | r 3x3 conv, 16 < 2 | r BN < 3 | r ReLU < 4 | r 3x3 conv, 16 < 5 | t + < 0 6"
    ),
}
GATE = "g 1x1 conv + b < 0 | g sigmoid < 6 | g 1 - < 7"
FIGURE_2 = {
    "identity": ({"kind": "identity"}, f"t x | {RESIDUAL} | t + < 0 5 | t ReLU < 6"),
    "scaled 0.5, 0.5": (
        {"kind": "scaled", "shortcut_scale": 0.5, "residual_scale": 0.5},
        f"t x | {RESIDUAL} | r × 0.5 < 5 | t × 0.5 < 0 | t + < 7 6 | t ReLU < 8",
    ),
    "scaled 0.5, 1": (
        {"kind": "scaled", "shortcut_scale": 0.5, "residual_scale": 1},
        f"t x | {RESIDUAL} | t × 0.5 < 0 | t + < 6 5 | t ReLU < 7",
    ),
    "scaled 0, 1": (
        {"kind": "scaled", "shortcut_scale": 0, "residual_scale": 1},
        f"t x | {RESIDUAL} | t ReLU < 5",
    ),
    "exclusive gate": (
        {"kind": "exclusive-gate", "gate_bias": -6},
        f"t x | {RESIDUAL} | {GATE} | t × < 8 0 | r × < 7 5 | t + < 9 10 | t ReLU < 11",
    ),
    "shortcut-only gate": (
        {"kind": "shortcut-only-gate", "gate_bias": -6},
        f"t x | {RESIDUAL} | {GATE} | t × < 8 0 | t + < 9 5 | t ReLU < 10",
    ),
    "convolution": (
        {"kind": "convolution"},
        f"t x | {RESIDUAL} | t 1x1 conv, 16 < 0 | t BN < 6 | t + < 7 5 | t ReLU < 8",
    ),
    "dropout": (
        {"kind": "dropout", "ratio": 0.5},
        f"t x | {RESIDUAL} | t dropout 0.5 < 0 | t + < 6 5 | t ReLU < 7",
    ),
    "none": ({"kind": "none"}, f"t x | {RESIDUAL} | t ReLU < 5"),
}


def written(text):
    return text.split(" | ")


def lines(found):
    """Operations in the notation above; that the names are unique, and known where they are used, is checked."""
    numbers = {}
    result = []
    for operation in found:
        sources = "".join(f" {numbers[name]}" for name in operation.inputs)
        assert operation.name not in numbers
        numbers[operation.name] = len(numbers)
        result.append(f"{operation.branch[0]} {operation.label}{' <' if sources else ''}{sources}")
    assert {operation.branch for operation in found} <= {"trunk", "residual", "gate"}
    return result


def units_of(found):
    return [operation.unit for operation in found]


@pytest.mark.parametrize("activation", FIGURE_4)
def test_figure_4(activation):
    found = operations(CifarResNet(14, activation=activation))
    assert lines(found) == written(FIGURE_4[activation])
    assert units_of(found) == [-1] + [0] * (len(found) - 1)


@pytest.mark.parametrize("case", FIGURE_2)
def test_figure_2(case):
    shortcut, expected = FIGURE_2[case]
    assert lines(operations(CifarResNet(14, shortcut=shortcut))) == written(expected)


CHANGING = "t x | r 3x3 conv, 32 < 0 | r BN < 1 | r ReLU < 2 | r 3x3 conv, 32 < 3 | r BN < 4"
CHANGING_PRE_ACTIVATED = "t x | r BN < 0 | r ReLU < 1 | r 3x3 conv, 32 < 2 | r BN < 3 | r ReLU < 4 | r 3x3 conv, 32 < 5"


@pytest.mark.parametrize(
    "choices, expected",
    [
        ({}, f"{CHANGING} | t stride, pad channels < 0 | t + < 6 5 | t ReLU < 7"),
        ({"shape_change": "B"}, f"{CHANGING} | t 1x1 conv, 32 < 0 | t BN < 6 | t + < 7 5 | t ReLU < 8"),
        (
            {"shape_change": "B", "projection_batch_norm": False},
            f"{CHANGING} | t 1x1 conv, 32 < 0 | t + < 6 5 | t ReLU < 7",
        ),
        (
            {"activation": "full-pre-activation"},
            f"{CHANGING_PRE_ACTIVATED} | t stride, pad channels < 0 | t + < 7 6",
        ),
        # he2016, Appendix: where the shape changes, BN-ReLU is before both branches, and no BN behind the projection.
        (
            {"activation": "full-pre-activation", "shape_change": "B"},
            f"{CHANGING_PRE_ACTIVATED} | t 1x1 conv, 32 < 2 | t + < 7 6",
        ),
        (
            {"activation": "full-pre-activation", "pre_activate_zero_padding": True},
            f"{CHANGING_PRE_ACTIVATED} | t stride, pad channels < 2 | t + < 7 6",
        ),
        (
            {"shortcut": {"kind": "dropout", "ratio": 0.25}},
            f"{CHANGING} | t stride, pad channels < 0 | t dropout 0.25 < 6 | t + < 7 5 | t ReLU < 8",
        ),
        (
            {"shortcut": {"kind": "dropout", "ratio": 0.25}, "shortcut_at_shape_change": "identity"},
            f"{CHANGING} | t stride, pad channels < 0 | t + < 6 5 | t ReLU < 7",
        ),
        ({"shortcut": {"kind": "none"}, "shape_change": "B"}, f"{CHANGING} | t ReLU < 5"),
    ],
)
def test_the_first_unit_of_stage_2_brings_x_to_its_shape(choices, expected):
    assert lines(operations(CifarResNet(14, **choices), first=2)) == written(expected)


def test_bottleneck_units():
    """Figure 5 (right) of he2015, and he2016's pre-activation of it; the first unit widens, and its activation is the
    stem's."""
    original, pre_activated = (
        CifarResNet(20, unit="bottleneck", shape_change="B", activation=activation)
        for activation in ("original", "full-pre-activation")
    )
    assert lines(operations(original)) == written(
        "t x | r 1x1 conv, 16 < 0 | r BN < 1 | r ReLU < 2 | r 3x3 conv, 16 < 3 | r BN < 4 | r ReLU < 5"
        " | r 1x1 conv, 64 < 6 | r BN < 7 | t + < 0 8 | t ReLU < 9"
    )
    assert lines(operations(pre_activated)) == written(
        "t x | r BN < 0 | r ReLU < 1 | r 1x1 conv, 16 < 2 | r BN < 3 | r ReLU < 4 | r 3x3 conv, 16 < 5 | r BN < 6"
        " | r ReLU < 7 | r 1x1 conv, 64 < 8 | t + < 0 9"
    )
    assert lines(operations(pre_activated, first=0)) == written(
        "t x | r 1x1 conv, 16 < 0 | r BN < 1 | r ReLU < 2 | r 3x3 conv, 16 < 3 | r BN < 4 | r ReLU < 5"
        " | r 1x1 conv, 64 < 6 | t 1x1 conv, 64 < 0 | t + < 8 7"
    )


def test_one_layer_skips_and_imagenet_units():
    assert lines(operations(CifarResNet(8, unit="single"))) == written(
        "t x | r 3x3 conv, 16 < 0 | r BN < 1 | t + < 0 2 | t ReLU < 3"
    )
    assert lines(operations(ImageNetResNet(18), first=6)) == written(
        "t x | r 3x3 conv, 512 < 0 | r BN < 1 | r ReLU < 2 | r 3x3 conv, 512 < 3 | r BN < 4"
        " | t stride, pad channels < 0 | t + < 6 5 | t ReLU < 7"
    )


def test_consecutive_units_feed_one_another():
    found = operations(CifarResNet(14), first=0, count=2)
    once = "r 3x3 conv, 16 < {} | r BN < {} | r ReLU < {} | r 3x3 conv, 16 < {} | r BN < {} | t + < {} {} | t ReLU < {}"
    first, second = once.format(0, 1, 2, 3, 4, 0, 5, 6), once.format(7, 8, 9, 10, 11, 7, 12, 13)
    assert lines(found) == written(f"t x | {first} | {second}")
    assert units_of(found) == [-1] + [0] * 7 + [1] * 7


@pytest.mark.parametrize("option", "AB")
@pytest.mark.parametrize("first", [1, 2, 3, 4])
@pytest.mark.parametrize("activation, length", [("full-pre-activation", 2), ("relu-only-pre-activation", 1)])
def test_figure_5_b_and_c_differ_only_in_who_owns_the_activations(activation, length, first, option):
    """Equation 10: f^ of a unit in (c) belongs in (b) to the unit before, and one more stands after the last."""
    network = CifarResNet(14, activation=activation, shape_change=option)
    c, b = operations(network, first, 2), operations(network, first, 2, asymmetric=True)
    assert lines(b)[: len(c)] == lines(c)
    more = ["r BN", "r ReLU"][-length:]
    assert [line.partition(" <")[0] for line in lines(b)[len(c) :]] == more
    assert b[len(c)].inputs == (b[len(c) - 1].name,)
    moved = [i for i in range(len(c)) if b[i].unit != c[i].unit]
    assert [b[i].unit for i in moved] == [c[i].unit - 1 for i in moved]
    assert len(moved) == 2 * length
    assert [lines(c)[i].partition(" <")[0] for i in moved] == more * 2
    joins = [operation.name for operation in c if operation.label == "+"]
    assert [c[i].inputs for i in moved[::length]] == [("x",), (joins[0],)]
    assert units_of(b)[len(c) :] == [1] * length


def test_figure_5_b_ends_with_the_networks_last_activation():
    network = CifarResNet(14, activation="full-pre-activation")
    assert lines(operations(network, 5, asymmetric=True))[-3:] == ["t + < 0 6", "r BN < 7", "r ReLU < 8"]
    network.last = nn.ReLU()  # a bent network is drawn bent
    assert lines(operations(network, 5, asymmetric=True))[-2:] == ["t + < 0 6", "r ReLU < 7"]


def test_a_bent_unit_is_drawn_bent():
    """The figure is of the modules that are trained, not of what they are called."""
    network = CifarResNet(14)
    network.units[1].residual[4] = nn.Identity()
    assert lines(operations(network)) == written(
        "t x | r 3x3 conv, 16 < 0 | r BN < 1 | r ReLU < 2 | r 3x3 conv, 16 < 3 | t + < 0 4 | t ReLU < 5"
    )


@pytest.mark.parametrize("first, count", [(6, 1), (5, 2), (0, 7), (100, 1), (-1, 1), (-2, 1), (-3, 2)])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_units_that_are_not_there_are_refused(first, count, asymmetric):
    network = CifarResNet(14, activation="full-pre-activation")
    with pytest.raises(ValueError, match=rf"units {first} to {first + count - 1} of a network that has 6"):
        operations(network, first, count, asymmetric)


def test_a_shortcut_of_the_users_own_is_drawn(monkeypatch):
    """examples/skip_init.py; its learned factor has no number to show."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    monkeypatch.delitem(sys.modules, "skip_init", raising=False)
    from skip_init import SkipInit

    network = CifarResNet(14, shortcut={"kind": "custom", "initial": 0.0}, shortcut_class=SkipInit)
    assert lines(operations(network)) == written(f"t x | {RESIDUAL} | r × < 5 | t + < 0 6 | t ReLU < 7")
    assert lines(operations(network, 2)) == written(
        f"{CHANGING} | t stride, pad channels < 0 | r × < 5 | t + < 6 7 | t ReLU < 8"
    )


class WithModules(Shortcut):
    """A shortcut of the user's own with modules that none of the papers has."""

    def __init__(self, *unit, make):
        super().__init__(*unit)
        self.more = make(unit[1])

    def forward(self, x, f):
        return self.more(self.path(x)) + f


@pytest.mark.parametrize("make", [nn.BatchNorm2d, lambda channels: nn.AvgPool2d(3, 1, 1)])
def test_modules_of_torch_in_a_shortcut_of_the_users_own_are_drawn_on_the_trunk(make):
    """Training knows torch's batch norm in a custom shortcut (`assembly.decayed`)."""
    network = CifarResNet(14, shortcut={"kind": "custom", "make": make}, shortcut_class=WithModules)
    found = operations(network)
    [more] = [operation for operation in found if operation.inputs == ("x",) and operation.branch != "residual"]
    assert more.branch == "trunk"
    assert found[-2].inputs == (more.name, found[5].name)
