"""The step: the same function however it is computed."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from identity_mappings.errors import UserError
from identity_mappings.networks.resnet import CifarResNet
from identity_mappings.training import captured, memory
from identity_mappings.training.optimizer import Optimizer
from identity_mappings.training.trainer import Options, Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
NAMES = ["cifar10-resnet110", "cifar10-resnet164-full-pre-activation", "cifar10-resnet110-exclusive-gate-b6"]


def trainer(experiment, tmp_path, seed=0, **options) -> Trainer:
    return Trainer(experiment, seed, CPU, Options(tmp_path, root=ROOT, device="cpu", **options))


@pytest.fixture
def small(short):
    def make(name=NAMES[0], **recipe):
        experiment = short(name, **recipe)
        if "164" in name:
            experiment.parameters["network"]["depth"] = 11
        return experiment

    return make


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_the_plain_statement_of_one(small, tmp_path, name):
    """Whole batches in double precision, loss and update written out: five steps, with a switch of the rate."""
    ours = trainer(small(name), tmp_path)
    ours.network.double()
    ours.feed.augmentation.means = ours.feed.augmentation.means.double()
    ours.optimizer = Optimizer(ours.network, ours.recipe)
    ours.parameters = list(ours.network.parameters())
    plain = deepcopy(ours.network).to(memory_format=torch.contiguous_format)
    optimizer = Optimizer(plain, ours.recipe)
    for iteration in range(5):
        view = ours.feed.sampler.view(iteration)
        x, y = ours.feed.augmentation.view(view).contiguous(), ours.feed.labels[view.image]
        scores = plain(x)
        loss = F.cross_entropy(scores, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.prepare(iteration)
        optimizer.update()
        found, wrong, size = ours.step(iteration)
        assert float(found) == pytest.approx(loss.item(), rel=1e-5)  # collected in float32
        assert (int(wrong), size) == (int((scores.argmax(1) != y).sum()), len(y))
    for (key, a), (_, b) in zip(ours.network.state_dict().items(), plain.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", NAMES)
def test_units_that_are_computed_again_give_the_same_bytes(small, tmp_path, name):
    kept, again = (trainer(small(name), tmp_path, recompute=recompute) for recompute in (False, True))
    for iteration in range(4):
        assert torch.equal(kept.step(iteration)[0], again.step(iteration)[0])
    for a, b in zip(kept._state(), again._state(), strict=True):
        assert torch.equal(a, b)


def test_computed_again_needs_less_memory():
    """Counted by what autograd holds on to."""
    network = CifarResNet(20, replicas=2)
    held = memory.count_kept_bytes(network, 64, (3, 32, 32))
    assert held == pytest.approx(2 * memory.count_kept_bytes(network, 32, (3, 32, 32)), rel=0.01)
    # Seven convolutions with inputs of 16 x 32 x 32, of which each keeps its input, and batch norm its own.
    assert 2 * 7 * 64 * 16 * 32 * 32 * 4 < held < 2 * 19 * 64 * 16 * 32 * 32 * 4


def test_units_with_dropout_are_not_computed_again(short, tmp_path):
    with pytest.raises(UserError, match="dropout masks are drawn once"):
        trainer(short(), tmp_path, recompute=True)


def test_where_memory_is_short_units_are_computed_again(small, tmp_path, monkeypatch):
    assert not trainer(small(), tmp_path).model.recompute
    monkeypatch.setattr(memory, "get_total_bytes", lambda device: 10_000)
    assert trainer(small(), tmp_path).model.recompute


def test_nothing_waits_for_the_device_in_a_step(small, tmp_path, monkeypatch):
    """Reading a number of the device would: `item`, `tolist`, float() and bool() of a tensor."""
    one = trainer(small(), tmp_path)
    one.step(0)
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"{name} in a step"))
    for iteration in (1, 2, 3):  # with a switch of the rate
        one.step(iteration)


def test_the_warm_up_has_more_than_one_call():
    """Libraries choose in the first call; the second shows that there is nothing left to choose."""
    assert captured.WARM_UP >= 2
