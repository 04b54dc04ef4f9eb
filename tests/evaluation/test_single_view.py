"""The test on the single original view, and batch norm's statistics as plain averages."""

import math

import pytest
import torch
from torch import nn

from identity_mappings.evaluation import single_view
from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.networks.shortcuts import Dropout


class Scores(nn.Module):
    """Reads its scores from the images, and notes the mode it is called in."""

    def __init__(self):
        super().__init__()
        self.modes, self.sizes = [], []

    def forward(self, x):
        self.modes.append(self.training)
        self.sizes.append(len(x))
        return x.flatten(1)


def images_of(scores):
    """Images (N, classes, 1, 1) that `Scores` turns into these scores: the test is given numbers of the images."""
    return torch.arange(len(scores)), lambda numbers: scores[numbers].float()[:, :, None, None]


SCORES = torch.tensor([[3.0, 1, 0], [0, 2, 1], [0, 1, 5], [4, 1, 0], [1, 0, 2]])
LABELS = torch.tensor([0, 1, 0, 0, 1])  # the third and the last are wrong


def losses(scores, labels):
    return [math.log(sum(math.exp(s) for s in row)) - row[y] for row, y in zip(scores.tolist(), labels, strict=True)]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 500])
def test_counts_and_mean_loss_do_not_depend_on_the_batches(batch_size):
    images, normalize = images_of(SCORES)
    network = Scores()
    result = single_view.test_single_view(network, images, LABELS, normalize, batch_size)
    assert (result.wrong, result.images, result.as_json()["test_error"]) == (2, 5, 40.0)
    assert result.loss == pytest.approx(sum(losses(SCORES, LABELS)) / 5, rel=1e-6)
    assert sum(network.sizes) == 5
    assert max(network.sizes) == min(batch_size, 5)


def test_networks_are_tested_in_test_mode_and_left_in_training_mode():
    network = Scores()
    images, normalize = images_of(SCORES)
    single_view.test_single_view(network, images, LABELS, normalize)
    assert network.modes == [False]
    assert network.training


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_scores_that_are_not_finite_are_wrong(bad, place):
    """Also where the largest score is that of the label."""
    scores = SCORES.clone()
    scores[0, place] = bad
    images, normalize = images_of(scores)
    assert single_view.test_single_view(Scores(), images, LABELS, normalize).wrong == 3


def test_all_nan_is_an_error_of_100_percent():
    images, normalize = images_of(torch.full((4, 3), math.nan))
    result = single_view.test_single_view(Scores(), images, torch.zeros(4, dtype=torch.int64), normalize)
    assert result.as_json()["test_error"] == 100
    assert math.isnan(result.loss)


def test_testing_tracks_no_gradients():
    images, normalize = images_of(SCORES)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3, 3))
    outputs = []
    linear.register_forward_hook(lambda *arguments: outputs.append(arguments[-1]))
    single_view.test_single_view(linear, images, LABELS, normalize)
    assert not outputs[0].requires_grad


@pytest.mark.parametrize("replicas", [1, 2])
def test_recomputed_statistics_are_plain_averages_over_the_batches(replicas):
    """Of each replica's mean and unbiased variance, whatever the moving averages were; momenta stay."""
    g = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        BatchNorm2d(3, replicas, momentum=0.1),
        nn.Conv2d(3, 4, 3, bias=False),
        nn.ReLU(),
        BatchNorm2d(4, replicas, momentum=0.2),
    ).double()
    norms = [network[0], network[3]]
    for norm in norms:
        norm.running_mean.fill_(77.0)
        norm.running_var.fill_(99.0)
    batches = [torch.randn(6, 3, 5, 5, dtype=torch.float64, generator=g) * k + k for k in (1, 5, 2)]
    inputs = {norm: [] for norm in norms}
    hooks = [norm.register_forward_hook(lambda norm, x, _: inputs[norm].append(x[0])) for norm in norms]
    network.eval()
    single_view.recompute_statistics(network, iter(batches))
    for hook in hooks:
        hook.remove()
    for norm in norms:
        assert len(inputs[norm]) == 3
        for replica in range(replicas):
            parts = [x[replica::replicas] for x in inputs[norm]]
            means = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
            variances = torch.stack([part.var((0, 2, 3), unbiased=True) for part in parts]).mean(0)
            torch.testing.assert_close(norm.running_mean[replica], means, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(norm.running_var[replica], variances, rtol=1e-12, atol=1e-12)
    assert [norm.momentum for norm in norms] == [0.1, 0.2]
    assert network.training


def test_statistics_are_recomputed_without_dropout():
    """They stand for the network as it is tested; afterwards every module is in training mode again."""
    norm = BatchNorm2d(3)
    network = nn.Sequential(Dropout(0.5), norm)
    batch = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)) + 1
    single_view.recompute_statistics(network, [batch])
    torch.testing.assert_close(norm.running_mean[0], batch.mean((0, 2, 3)))
    assert all(module.training for module in network.modules())
