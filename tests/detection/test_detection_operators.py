"""No operator of a detection's steps or test is one that CUDA cannot compute deterministically."""

import pytest
import torch
from torchvision.ops import RoIPool

from deterministic_operators import NONDETERMINISTIC, Recorded
from identity_mappings.detection.trainer import DetectionTrainer

# Their backward passes add with atomics on a GPU, in no fixed order.
OF_TORCHVISION = {"_roi_pool_backward", "_roi_align_backward", "_ps_roi_pool_backward", "_ps_roi_align_backward"}


@pytest.mark.parametrize("name", ["voc-resnet101", "voc-vgg16", "coco-resnet101"])
@pytest.mark.parametrize("steps", ["joint", "alternating"])
def test_every_operator_has_a_deterministic_implementation_on_cuda(name, steps, detection, options, tmp_path):
    """Of an iteration of each step of the training, and of a test."""
    trainer = DetectionTrainer(detection(name, steps=steps), 0, torch.device("cpu"), options(tmp_path))
    with Recorded() as recorded:
        for iteration in (0, 2, 4, 6):  # the alternating training's four steps have two iterations each
            trainer.step(iteration)
        trainer.network.eval()([torch.zeros(3, 64, 64)])
    assert {"convolution_backward", "roi_pool", "nms", "index_put_"} <= recorded.names
    assert not recorded.names & (NONDETERMINISTIC | OF_TORCHVISION)


def test_torchvision_s_own_pooling_is_found():
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    with Recorded() as recorded:
        RoIPool(2, 1.0)(x, [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]).sum().backward()
    assert recorded.names & OF_TORCHVISION == {"_roi_pool_backward"}
