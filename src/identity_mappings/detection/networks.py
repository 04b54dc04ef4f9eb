"""Faster R-CNN on torchvision's parts, with a network of he2015 as its backbone (Section 4.3, Appendix A)."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import FrozenBatchNorm2d, roi_align

from ..data.sampling import make_generator
from ..networks.batch_norm import BatchNorm2d
from ..networks.depth import VGG_STRIDE, stages
from ..networks.families import FAMILIES
from ..networks.vgg import CONVOLUTIONS, Vgg

STRIDE = 16  # of conv4, and of VGG's conv5_3
STEPS = ("rpn", "detector", "rpn on shared layers", "detector on shared layers")


class RegionPooling(nn.Module):
    """Regions of a feature map of stride 16, each as a square of features.

    Args:
        kind: "pool" (RoI pooling, as he2015 has it) or "align".
        size: of the square.

    Shape: {"0": (N, C, H, W)} and a list of N tensors (R, 4) of boxes in pixels to (sum of R, C, size, size).
    """

    def __init__(self, kind: str, size: int):
        super().__init__()
        self.kind, self.size = kind, size

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], _: Any = None) -> Tensor:
        x = features["0"]
        if self.kind == "align":
            return roi_align(x, boxes, self.size, 1 / STRIDE, sampling_ratio=2)
        # The gradient of torchvision's pooling adds with atomics on a GPU. Indexing adds in one order, where
        # deterministic algorithms are asked for: of torchvision only the places of the maxima are taken.
        rois = torch.cat([torch.cat([box.new_full((len(box), 1), i), box], 1) for i, box in enumerate(boxes)])
        with torch.no_grad():
            pooled, places = torch.ops.torchvision.roi_pool(x, rois, 1 / STRIDE, self.size, self.size)
        _, channels, height, width = x.shape
        planes = rois[:, :1].long() * channels + torch.arange(channels, device=x.device)
        index = planes[:, :, None, None] * (height * width) + places
        return x.flatten().to(pooled.dtype)[index.clamp(0)].where(places >= 0, 0)  # an empty bin has no maximum


def build_backbone(network: dict[str, Any], backbone: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """A trained classification network, its batch norms frozen.

    Args:
        network, backbone: of a detection's parameters.
        state: of the trained network; of replicas' statistics the first is taken: recomputed ones are all the same.
    """
    arguments = {key: value for key, value in network.items() if value is not None}
    if arguments.pop("family") == "vgg":
        made: nn.Module = Vgg(arguments["depth"], backbone["classes"], 3, backbone["size"], backbone["dropout"])
    else:
        arguments |= {"classes": backbone["classes"], "batch_norm_eps": backbone["batch_norm_eps"]}
        made = FAMILIES["imagenet"](**arguments)
    statistics = ("running_mean", "running_var")
    made.load_state_dict({name: x[:1] if name.endswith(statistics) else x for name, x in state.items()})
    return _frozen(made)


def _frozen(module: nn.Module) -> nn.Module:
    """The module with torchvision's frozen batch norm in the place of ours: constant scales and offsets."""
    if isinstance(module, BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.channels, module.eps)
        frozen.load_state_dict({name: x.view(-1) for name, x in module.state_dict().items()})
        return frozen
    for name, child in module.named_children():
        setattr(module, name, _frozen(child))
    return module


def split(network: Any, parameters: dict[str, Any], frozen_stages: int) -> tuple[nn.Sequential, nn.Sequential]:
    """conv1 to conv4, which are shared, and what acts on each region; of VGG all convolutions, and fc6 and fc7.

    The first stages' weights take no gradient any more.
    """
    if parameters["family"] == "vgg":
        layers = list(network.features)[:-1]  # RoI pooling takes the last pooling's place
        body, head = nn.Sequential(*layers), nn.Sequential(nn.Flatten(), *list(network.linear)[:-1])
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        fixed = convolutions[: sum(CONVOLUTIONS[parameters["depth"]][:frozen_stages])]
    else:
        counts = stages("imagenet", parameters["unit"], parameters["depth"])
        first, units = sum(counts[:3]), list(network.units)
        body = nn.Sequential(network.stem, *units[:first])
        head = nn.Sequential(*units[first:], network.last, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        fixed = [network.stem, *units[: sum(counts[: frozen_stages - 1])]] if frozen_stages else []
    for module in fixed:
        module.requires_grad_(False)
    return body, head


class Detector(FasterRCNN):
    """torchvision's FasterRCNN whose training is that of a step: `joint`, or one of `STEPS`.

    Args:
        parameters: of a detection.
        state: of the backbone's trained network.
        seed: of the run, for the new layers.
    """

    def __init__(self, parameters: dict[str, Any], state: dict[str, Tensor], seed: int):
        recipe = SimpleNamespace(**parameters["recipe"])
        network, backbone = parameters["network"], parameters["backbone"]
        body, head = split(build_backbone(network, backbone, state), network, recipe.frozen_stages)
        with torch.no_grad():
            channels = body(torch.zeros(1, 3, 64, 64)).shape[1]
            body.out_channels = channels  # where torchvision looks for it
            size = recipe.pooled_size or backbone["size"] // (VGG_STRIDE if network["family"] == "vgg" else STRIDE)
            features = head.eval()(torch.zeros(1, channels, size, size)).shape[1]
        classes = parameters["dataset"]["classes"] + 1  # 0: background
        super().__init__(
            body,
            rpn_anchor_generator=AnchorGenerator((tuple(recipe.anchor_sizes),), (tuple(recipe.anchor_ratios),)),
            box_head=head,
            box_predictor=FastRCNNPredictor(features, classes),
            min_size=recipe.shorter_side,
            max_size=recipe.longer_side,
            image_mean=backbone["mean"],
            image_std=backbone["deviation"],
            rpn_pre_nms_top_n_train=recipe.proposals_before_nms,
            rpn_post_nms_top_n_train=recipe.proposals_training,
            rpn_pre_nms_top_n_test=recipe.proposals_test_before_nms,
            rpn_post_nms_top_n_test=recipe.proposals_test,
            rpn_nms_thresh=recipe.rpn_nms,
            rpn_batch_size_per_image=recipe.rpn_anchors,
            box_score_thresh=recipe.score_threshold,
            box_nms_thresh=recipe.nms,
            box_detections_per_img=recipe.detections,
            box_batch_size_per_image=recipe.regions,
            box_positive_fraction=recipe.positive_regions,
        )
        self.roi_heads.box_roi_pool = RegionPooling(recipe.roi, size)  # the constructor takes no other than its own
        self.proposer: nn.Module | None = None  # alternating: the RPN's own layers, while the detector has others
        # Fast R-CNN, Section 2.3: N(0, 0.01), and N(0, 0.001) for the boxes of the detector; no biases.
        for name, module in (*self.rpn.head.named_modules(prefix="rpn"), *self.roi_heads.box_predictor.named_modules()):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                deviation = 0.001 if name == "bbox_pred" else 0.01
                nn.init.normal_(module.weight, 0, deviation, make_generator(seed, "initialization", name))
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None, step: str = "") -> Any:
        """Without a step: the detections. With one: its loss, the misclassified regions (0 in a step of the RPN
        alone), and the number of regions.

        Args:
            images: float (3, H, W), in 0 to 255.
            targets: {"boxes": (K, 4) in pixels, "labels": (K) from 1}.
        """
        if not step:
            return super().forward(images)
        resized, targets = self.transform(images, targets)
        fixed = step.endswith("on shared layers")
        with torch.set_grad_enabled(not fixed):
            features = {"0": self.backbone(resized.tensors)}
        with torch.set_grad_enabled(not step.startswith("detector")):
            seen = features
            if step == "detector":
                assert self.proposer is not None
                seen = {"0": self.proposer(resized.tensors)}
            proposals, losses = self.rpn(resized, seen, targets)
        if step.startswith("rpn"):
            return sum(losses.values()), resized.tensors.new_zeros((), dtype=torch.int64), 0
        if step != "joint":
            losses = {}
        heads = self.roi_heads
        proposals, _, labels, box_targets = heads.select_training_samples(proposals, targets)
        scores, boxes = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals)))
        total = sum([*losses.values(), *fastrcnn_loss(scores, boxes, labels, box_targets)])
        every = torch.cat(labels)
        return total, (scores.detach().argmax(1) != every).sum(), len(every)
