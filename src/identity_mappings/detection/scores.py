"""How detections are scored: VOC 2007's 11-point average precision, and COCO's by pycocotools.

The boxes of an image are torchvision's: {"boxes": (K, 4) left, top, right, bottom in pixels, "labels": (K) from 1}, and
of true objects "difficult": (K) whether to ignore them, of detections "scores": (K).
"""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import box_convert, box_iou

from ..data.boxes import Boxes
from ..errors import UserError

POINTS = 11  # recall 0, 0.1, ..., 1 (Everingham et al. 2010, Section 4.2)
OVERLAP = 0.5  # intersection over union from which a detection is right


def average_precision(found: Sequence[Boxes], objects: Sequence[Boxes], label: int) -> float | None:
    """11-point interpolated average precision of a class, in %; None where no object of it counts.

    As VOC 2007's devkit: detections in the order of their scores; each belongs to the object of its class that it
    overlaps most, if that is at least a half; an object's second detection is wrong; one of a difficult object is
    neither right nor wrong, and difficult objects need not be found.

    Args:
        found, objects: by image, in the same order.
    """
    verdicts, wanted = [], 0  # of each detection that counts: its score, and whether it is right
    for detected, truth in zip(found, objects, strict=True):
        chosen, of_class = detected["labels"] == label, truth["labels"] == label
        shares = box_iou(detected["boxes"][chosen].double(), truth["boxes"][of_class])
        scores, difficult, taken = detected["scores"][chosen], truth["difficult"][of_class].tolist(), set()
        wanted += difficult.count(False)
        for number in scores.argsort(descending=True, stable=True).tolist():
            best = int(shares[number].argmax()) if difficult else 0
            overlaps = bool(difficult) and float(shares[number, best]) >= OVERLAP
            if not (overlaps and difficult[best]):
                verdicts.append((float(scores[number]), overlaps and best not in taken))
                taken |= {best} if overlaps else set()
    if not wanted:
        return None
    verdicts.sort(key=lambda entry: -entry[0])  # stable: of equal scores the first image's goes first
    right = torch.tensor([is_right for _, is_right in verdicts]).cumsum(0)
    precision = right / torch.arange(1, len(verdicts) + 1, dtype=torch.float64)
    reached = ((POINTS - 1) * right >= point * wanted for point in range(POINTS))  # each recall: by which detections
    precisions = [float(precision[chosen].max()) if chosen.any() else 0.0 for chosen in reached]
    return 100 * sum(precisions) / POINTS


def score_voc(found: Sequence[Boxes], objects: Sequence[Boxes], classes: Sequence[str]) -> dict[str, Any]:
    """{"map_50": mean over the classes that have objects, in %, "by_class": {class: average precision}}."""
    precisions = {name: average_precision(found, objects, label) for label, name in enumerate(classes, 1)}
    counted = {name: value for name, value in precisions.items() if value is not None}
    if not counted:
        raise UserError("no object of the test images counts: the annotations are empty; prepare the dataset again")
    mean = sum(counted.values()) / len(counted)
    return {"map_50": round(mean, 6), "by_class": {name: round(value, 6) for name, value in counted.items()}}


def read_coco(annotations: Path) -> Any:
    """Read instances_*.json; returns pycocotools' COCO.

    Raises:
        UserError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError:
        raise UserError("COCO needs pycocotools, which is not installed: pip install pycocotools") from None
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(annotations)


def score_coco(
    found: Sequence[Boxes], images: Sequence[int], categories: Sequence[int], annotations: Path
) -> dict[str, Any]:
    """{"map_50", "map": at IoU 0.5 to 0.95}, in %, by COCO's own evaluation.

    Args:
        found: by image.
        images, categories: COCO's number of each image, and of each label from 1 on.
        annotations: instances_*.json of the images.
    """
    truth, rows = read_coco(annotations), []
    for image, detected in zip(images, found, strict=True):
        left_top_size = box_convert(detected["boxes"], "xyxy", "xywh").double()
        numbers = torch.tensor(categories)[detected["labels"] - 1]
        image_numbers = torch.full_like(numbers, image)
        rows.append(torch.column_stack([image_numbers, left_top_size, detected["scores"].double(), numbers]))
    results = torch.cat(rows).numpy()
    if not len(results):
        return {"map_50": 0.0, "map": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        from pycocotools.cocoeval import COCOeval

        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.imgIds = list(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    whole, at_half = (max(0.0, float(value)) for value in evaluation.stats[:2])
    return {"map_50": round(100 * at_half, 6), "map": round(100 * whole, 6)}
