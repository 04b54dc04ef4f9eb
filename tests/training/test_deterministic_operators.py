"""No operator of any network's step or test is one that CUDA cannot compute deterministically."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deterministic_operators import NONDETERMINISTIC, TORCH, Recorded
from identity_mappings.data.images import Images
from identity_mappings.networks.depth import SHORT_VGG_DEPTH
from identity_mappings.parameters import load
from identity_mappings.records.experiment import Experiment, identity
from identity_mappings.training import feeds
from identity_mappings.training.trainer import Options, Trainer

ROOT = Path(__file__).parents[2]
SHORT = {("cifar", "basic"): 8, ("cifar", "single"): 8, ("cifar", "bottleneck"): 11}
SHORT |= {("imagenet", "basic"): 10, ("imagenet", "bottleneck"): 14, ("vgg", "basic"): SHORT_VGG_DEPTH}
SMALL = {"batch_size": 4, "batch_norm_samples": 2, "crop": None, "crop_size": None, "shorter_side": None}


def list_networks() -> dict[str, Experiment]:
    """Every network that is trained, shortened and on small images; one for each that differs in more than depth."""
    project, found = load(ROOT), {}
    for name in project.experiments:
        experiment = project.resolve(name)
        if experiment.untrainable:
            continue
        parameters = json.loads(json.dumps(experiment.parameters))
        network = parameters["network"]
        network["depth"] = SHORT[network["family"] or "cifar", network["unit"]]
        parameters["dataset"] |= {"size": 32, "classes": 10}
        parameters["recipe"] |= SMALL | ({"validation": 4} if parameters["recipe"].get("validation") else {})
        found.setdefault(json.dumps(identity(parameters), sort_keys=True), replace(experiment, parameters=parameters))
    return {experiment.name: experiment for experiment in found.values()}


NETWORKS = list_networks()


def record_operators(experiment: Experiment) -> set[str]:
    """Of two steps, of a test, and of batch norm's statistics computed again."""
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=numbers)
    images = Images(pixels, torch.arange(8), pixels[:4], torch.arange(4))
    trainer = Trainer(experiment, 0, torch.device("cpu"), Options(ROOT, root=ROOT, device="cpu"), images)
    with Recorded() as recorded:
        trainer.step(0)
        trainer.step(1)
        trainer.test()
        with patch.object(feeds, "STATISTICS_BATCHES", 2):
            trainer.recompute_statistics()
    return recorded.names


@pytest.mark.parametrize("name", NETWORKS)
def test_every_operator_has_a_deterministic_implementation_on_cuda(name):
    names = record_operators(NETWORKS[name])
    assert {"convolution", "convolution_backward", "nll_loss_forward", "nll_loss_backward", "addmm"} <= names
    assert not names & NONDETERMINISTIC


def test_every_shortcut_and_activation_is_among_them():
    networks = [experiment.parameters["network"] for experiment in NETWORKS.values()]
    kinds = {"identity", "none", "scaled", "exclusive-gate", "shortcut-only-gate", "convolution", "dropout", "custom"}
    assert {network["shortcut"]["kind"] for network in networks} == kinds
    assert len({network["activation"] for network in networks}) == 5
    assert {network["unit"] for network in networks} == {"basic", "bottleneck", "single"}


def test_the_list_is_that_of_the_pinned_torch():
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\ntorch=={TORCH} " in lock, (
        "another torch: read torch.use_deterministic_algorithms again and renew the list"
    )


@pytest.mark.parametrize(
    ("module", "operator"),
    [
        (nn.AdaptiveAvgPool2d(2), "_adaptive_avg_pool2d_backward"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), "upsample_bilinear2d_backward"),
        (nn.ReflectionPad2d(1), "reflection_pad2d_backward"),
    ],
)
def test_an_operator_on_the_list_is_found(module, operator):
    """Forward and backward, as a shortcut of the user's own may bring it."""
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with Recorded() as recorded:
        module(F.relu(x)).sum().backward()
    assert recorded.names & NONDETERMINISTIC == {operator}
