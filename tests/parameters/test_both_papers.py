"""The keys that he2015 and ImageNet brought: wrong combinations are one line each, and no other digest changed."""

import re
from pathlib import Path

import pytest

from identity_mappings.errors import UserError
from identity_mappings.parameters import load

ROOT = Path(__file__).parents[2]
CIFAR10, IMAGENET = "experiments/cifar10.yaml", "experiments/imagenet.yaml"
CROPPED = "recipes/he2015-imagenet.yaml"
RESNET20 = "cifar10-resnet20: {dataset: cifar10, recipe: he2015-cifar, network: {depth: 20}}"
RESNET50 = (
    "imagenet-resnet50: {dataset: imagenet, recipe: he2015-imagenet, gpus: 8, network: {family: imagenet, depth: 50, "
)
FLOPS, SECTION5, TABLE4 = "tables/he2015-table1.yaml", "tables/he2016-text.yaml", "tables/he2016-table4.yaml"
ORIGINAL = "experiments: [imagenet-resnet101]}"
SHARE = "published: 18%\n"
CURVES, UNITS = "figures/he2015-figure6.yaml", "figures/he2016-figure2.yaml"
RESPONSES, SIGNALS = "figures/he2015-figure7.yaml", "figures/own-signals.yaml"
WEIGHTS = "published: 19.4M, metric: parameters, counted: with batch norm"


def edit(copy, file: str, old: str, new: str) -> None:
    text = (copy.root / "params" / file).read_text()
    assert old in text, f"{file} has no {old!r}"
    (copy.root / "params" / file).write_text(text.replace(old, new, 1))


def in_network(more: str) -> str:
    return RESNET20.replace("depth: 20", f"depth: 20, {more}")


WRONG = {
    # networks
    "stride of a basic unit": (
        CIFAR10, RESNET20, in_network("bottleneck_stride: 3x3"), "cifar10-resnet20.network", "bottleneck_stride.*remove"
    ),
    "stem on CIFAR": (
        CIFAR10, RESNET20, in_network("stem_activation: after-pooling"), "cifar10-resnet20.network",
        "stem_activation .*remove it, or write family: imagenet",
    ),
    "unknown family": (
        CIFAR10, RESNET20, in_network("family: imagnet"), "cifar10-resnet20.network.family",
        "'cifar', 'imagenet' or 'vgg'",
    ),
    "units of VGG": (
        IMAGENET, "{family: vgg, depth: 16}", "{family: vgg, depth: 16, unit: basic}", "imagenet-vgg16.network",
        "no unit: remove it",
    ),
    "shortcuts of VGG": (
        IMAGENET, "{family: vgg, depth: 16}", "{family: vgg, depth: 16, shortcut: {kind: none}, activation: original}",
        "imagenet-vgg16.network", "no activation, shortcut: remove it",
    ),
    "option B of VGG": (
        IMAGENET, "{family: vgg, depth: 16}", "{family: vgg, depth: 16, shape_change: B}", "imagenet-vgg16.network",
        "shape_change.*remove it",
    ),
    "depth of VGG": (IMAGENET, "{family: vgg, depth: 16}", "{family: vgg, depth: 17}", "vgg16.network", "17.*16, 19"),
    "depth on ImageNet": (
        IMAGENET, RESNET50, RESNET50.replace("50, ", "51, "), "imagenet-resnet50.network",
        "51 .*18, 34, 50, 101, 152, 200",
    ),
    "unit on ImageNet": (
        IMAGENET, RESNET50 + "unit: bottleneck", RESNET50 + "unit: basic", "imagenet-resnet50.network",
        "write unit: bottleneck",
    ),
    "a CIFAR depth of bottleneck units on ImageNet's": (
        IMAGENET, RESNET50, RESNET50.replace("50, ", "164, "), "imagenet-resnet50.network", "164 .*18, 34"
    ),
    # recipes
    "a crop of no size": (CROPPED, "crop_size: 224\n", "", "crop", "needs crop_size"),
    "a random crop without sides": (CROPPED, "shorter_side: [256, 480]\n", "", "shorter_side", "both or neither"),
    "one side": (CROPPED, "\nshorter_side: [256, 480]", "\nshorter_side: [256]", "shorter_side", "at least 2"),
    # cells
    "top-1 without a protocol": (
        SECTION5, "protocol: centre-224, published: 23.6", "published: 23.6", "rows.0.cells.top-1",
        "needs a protocol: centre-224",
    ),
    "unknown protocol": (
        SECTION5, "protocol: centre-224, published: 23.6", "protocol: center-224, published: 23.6",
        "rows.0.cells.top-1.protocol", "'centre-224'",
    ),
    "weights counted as multiply-adds": (
        TABLE4, WEIGHTS, WEIGHTS.replace("batch norm", "linear layers"), "rows.8.cells.parameters",
        "'counted: with batch norm'",
    ),
    "multiply-adds counted as weights": (
        FLOPS, "counted: with linear layers, published: 1.8", "counted: with batch norm, published: 1.8",
        "rows.0.cells.flops", "'counted: with linear layers'",
    ),
    "weights without a convention": (
        TABLE4, ", counted: with batch norm", "", "rows.8.cells.parameters", "'counted: with batch norm'"
    ),
    "a counted error": (
        SECTION5, "published: 23.6", "counted: with batch norm, published: 23.6", "rows.0.cells.top-1",
        "counted: .*remove it",
    ),
    "share_of without %": (
        FLOPS, "published: 1.8×10^9", "published: 1.8×10^9, share_of: imagenet-vgg19", "rows.0.cells.flops",
        "share_of .*both or neither",
    ),
    "% of nothing": (
        FLOPS, "        share_of: imagenet-vgg19\n", "", "rows.7.cells.share", "share_of .*both or neither"
    ),
    "share of an unknown": (
        FLOPS, "share_of: imagenet-vgg19", "share_of: imagenet-vgg91", "cells.share.share_of",
        "did you mean 'imagenet-vgg19'",
    ),
    "multiply-adds in words": (FLOPS, SHARE, "published: 18 percent\n", "rows.7.cells.share.published", "3.6×10\\^9"),
    "multiply-adds as weights": (FLOPS, "1.8×10^9", "1.8M", "rows.0.cells.flops.published", "3.6×10\\^9"),
    "weights as multiply-adds": (TABLE4, "19.4M", "19.4×10^9", "rows.8.cells.parameters.published", "1.7M"),
    "weights as a number": (TABLE4, "19.4M", "19.4", "rows.8.cells.parameters.published", "1.7M"),
    "weights that fail": (TABLE4, "19.4M", "fail", "rows.8.cells.parameters.published", "1.7M"),
    "a mean for top-1": (SECTION5, "published: 23.6", "published: 23.6±0.1", "cells.top-1.published", "a number"),
    "quoted and made again": (
        SECTION5, ORIGINAL, f"quoted: true, {ORIGINAL}", "rows.0.cells.top-1", "either experiments, or"
    ),
    "made again and not rebuilt": (
        SECTION5, ORIGINAL, f"not_rebuilt: why, {ORIGINAL}", "rows.0.cells.top-1", "either experiments, or"
    ),
    # scales
    "a depth that nothing has": (
        "scales/demo.yaml", "single: {110: 32}", "single: {164: 32}", "overlay.depths: single", "known: 110"
    ),
    # figures
    "unknown kind": (UNITS, "kind: units", "kind: unit", "kind", ".units."),
    "key of another kind": (
        UNITS, "title: Shortcuts", "dashed: training error\ntitle: Shortcuts", "dashed", "unknown key"
    ),
    "what is dashed": (CURVES, "dashed: training error", "dashed: trainig error", "dashed", "'training error'"),
    "no units": (UNITS, "experiment: cifar10-resnet110}", "experiment: cifar10-resnet110, count: 0}", "count", "0"),
}  # fmt: skip
for name, file in {"curves": CURVES, "units": UNITS, "responses": RESPONSES, "signals": SIGNALS}.items():
    # The name of the figure's file is no place: own-signals.yaml has 31 curves.
    WRONG[f"unknown experiment in {name}"] = (
        file, "experiment: cifar10-resnet110}", "experiment: cifar10-resnt110}", "panels",
        "did you mean 'cifar10-resnet110'",
    )  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "key", "cure"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_line_with_file_key_and_cure(copy, file, old, new, key, cure):
    edit(copy, file, old, new)
    with pytest.raises(UserError) as caught:
        load(copy.root)
    path, _, message = str(caught.value).partition(": ")
    assert path == str(copy.root / "params" / file)
    assert key in message, message
    assert re.search(cure, message), message
    assert "\n" not in message and not re.search(
        r"Value error|\.the file|the file\.|\bNone\b|discriminator", message
    ), message


def digest(copy, name: str) -> str:
    return load(copy.root).resolve(name).digest


@pytest.mark.parametrize(
    ("file", "name", "old", "more"),
    [
        (CIFAR10, "cifar10-resnet20", "{depth: 20}}", "family: cifar"),
        (CIFAR10, "cifar10-resnet20", "{depth: 20}}", "stem_activation: before-pooling, bottleneck_stride: 1x1"),
        (CIFAR10, "cifar10-resnet20", "{depth: 20}}", "family: null, stem_activation: null, bottleneck_stride: null"),
        (CIFAR10, "cifar10-resnet164", "{depth: 164, unit: bottleneck}", "bottleneck_stride: 1x1"),
        (IMAGENET, "imagenet-resnet50", "depth: 50, unit: bottleneck}", "bottleneck_stride: 1x1"),
        (IMAGENET, "imagenet-resnet18", "{family: imagenet, depth: 18}", "stem_activation: before-pooling"),
    ],
)
def test_the_papers_own_choice_written_out_is_the_same_experiment(copy, file, name, old, more):
    """Else what was trained under one spelling would be "not run" under the other."""
    before = digest(copy, name)
    edit(copy, file, old, old.replace("}", f", {more}}}", 1))
    assert more in (copy.root / "params" / file).read_text()
    assert digest(copy, name) == before


@pytest.mark.parametrize(
    ("name", "old", "more"),
    [
        ("imagenet-resnet50", "depth: 50, unit: bottleneck}", "bottleneck_stride: 3x3"),
        ("imagenet-resnet50", "depth: 50, unit: bottleneck}", "stem_activation: after-pooling"),
        ("imagenet-resnet50", "depth: 50, unit: bottleneck}", "shortcut: {kind: none}"),
    ],
)
def test_another_choice_is_another_network(copy, name, old, more):
    before = load(copy.root).resolve(name)
    edit(copy, IMAGENET, old, old.replace("}", f", {more}}}"))
    after = load(copy.root).resolve(name)
    assert after.digest != before.digest and after.network_digest != before.network_digest


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        ("cifar10-resnet164", "paper", "0e175faf9759"),
        ("cifar10-resnet110-exclusive-gate-b6", "paper", "425860a9d76b"),
        ("cifar10-resnet110-exclusive-gate-b6", "demo", "595ae2cf4364"),
        ("cifar100-resnet1001-full-pre-activation", "paper", "64117a2750dc"),
    ],
)
def test_digests_that_records_have(name, scale, expected):
    """If one changes, no record of before is found any more. Only `NUMERICS` may do that."""
    assert load(ROOT).resolve(name, scale).digest == expected


def test_the_network_digest_is_of_the_network_and_its_inputs_alone(copy):
    project = load(copy.root)
    one, other = (project.resolve(f"cifar10-resnet1001-full-pre-activation{end}") for end in ("", "-released-code"))
    assert one.digest != other.digest and one.network_digest == other.network_digest
    ten, hundred = (project.resolve(f"{name}-resnet164") for name in ("cifar10", "cifar100"))
    assert ten.network_digest != hundred.network_digest
    edit(copy, "datasets.yaml", "training_images: 50000", "training_images: 45000")
    changed = load(copy.root).resolve("cifar10-resnet164")
    assert changed.digest != ten.digest and changed.network_digest == ten.network_digest


UNTRAINABLE = {
    "imagenet-vgg16": "imagenet-vgg16 has no recipe, only its cost is counted: name a recipe in params/experiments",
}


@pytest.mark.parametrize("scale", ["paper", "demo"])
def test_what_of_imagenet_is_wanted_and_that_all_of_it_is_counted(scale):
    """Wanted is what a table shows, and trained; the demonstration has other names for a few short networks."""
    project = load(ROOT)
    wanted, counted = (
        {e.name for e in found(scale)} for found in (project.list_to_train, project.list_one_per_network)
    )
    of_imagenet = {name for name in project.experiments if name.startswith("imagenet-")}
    trained = {
        "paper": of_imagenet
        - {"imagenet-vgg16", "imagenet-vgg19", "imagenet-vgg16-trained", "imagenet-resnet101-full-pre-activation"},
        "demo": {
            "imagenet-plain18", "imagenet-resnet18", "imagenet-resnet152", "imagenet-resnet152-full-pre-activation",
            "imagenet-resnet101-bn-after-addition",
        },
    }  # fmt: skip
    assert wanted & of_imagenet == trained[scale]
    assert not {e.name for e in project.list_for_signals(scale)} & of_imagenet
    # The dagger row of Table 5 differs from the row above it in its stride: another network, which is counted too.
    # A backbone of detections is a dependency of theirs: trained where they are, and in no table itself.
    backbone = {"imagenet-vgg16-trained"}  # at the papers' scale the same network as imagenet-vgg16
    assert counted & of_imagenet == (of_imagenet - backbone if scale == "paper" else trained["demo"] | backbone)


def test_without_a_hash_nothing_is_trained_on_a_dataset(copy):
    pinned = load(copy.root).datasets["imagenet"].md5
    edit(copy, "datasets.yaml", f"md5: {pinned}", "md5: null")
    project = load(copy.root)
    assert not {e.name for e in project.list_to_train("paper")} & {
        name for name in project.experiments if "imagenet" in name
    }
    answer = copy.command("train", "imagenet-resnet50", "--device", "cpu")
    reason = "imagenet-resnet50: params/datasets.yaml pins no data for imagenet yet: give its md5"
    assert (answer.returncode, answer.stdout) == (2, f"identity-mappings: {reason}\n")


@pytest.mark.parametrize("command", ["train", "signals", "responses"])
@pytest.mark.parametrize(("name", "reason"), UNTRAINABLE.items())
def test_what_cannot_be_trained_says_why(copy, command, name, reason):
    answer = copy.command(command, name, "--device", "cpu")
    assert (answer.returncode, answer.stdout) == (2, f"identity-mappings: {reason}\n")


@pytest.mark.parametrize(("name", "reason"), UNTRAINABLE.items())
def test_snakemake_says_it_too(copy, name, reason):
    folder = load(copy.root).resolve(name).folder
    answer = copy.snakemake("-n", f"results/runs/{folder}/seed0/metrics.json", cores=1)
    assert answer.returncode != 0
    assert f"UserError: {reason}\n" in answer.stdout, answer.stdout
