"""Faster R-CNN with the networks of he2015 as its backbone (Section 4.3 and Appendix A; Tables 7 and 8)."""

from typing import Any

from ..records.experiment import Experiment
from ..training.trainer import RunTrainer, Trainer


def make_trainer(experiment: Experiment, *arguments: Any, **options: Any) -> RunTrainer:
    """A `Trainer`, or of a detection a `DetectionTrainer`; what `Options.make_trainer` takes."""
    if not experiment.detects:
        return Trainer(experiment, *arguments, **options)
    from .trainer import DetectionTrainer  # and with it torchvision's detectors

    return DetectionTrainer(experiment, *arguments, **options)
