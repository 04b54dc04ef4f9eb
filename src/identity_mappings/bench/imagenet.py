"""What surrounds a step on ImageNet: preparing archives, decoding images, exchanging gradients; and which limits."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..records.experiment import Experiment
from ..training.assembly import build, recipe_of
from . import exchange, pipeline, prepare


def measurable(experiment: Experiment, device: torch.device) -> Experiment:
    """What a step is measured of: on a CPU one of the recipe's replicas, since they follow one another there."""
    if device.type == "cuda" or not experiment.streamed:
        return experiment
    recipe = experiment.parameters["recipe"]
    parameters = {**experiment.parameters, "recipe": {**recipe, "batch_size": recipe["batch_norm_samples"]}}
    return Experiment(experiment.name, experiment.scale, parameters, experiment.gpus, experiment.custom_source)


def surroundings(experiment: Experiment, device: torch.device, entry: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Beside the entry of a step: images per second of what feeds it and joins it, and what limits a training.

    All of the whole machine: its cores, its GPUs (a step's rate times their number), the exchange between them.

    Args:
        experiment: with the recipe's whole batch.
        entry: of `measure.compare`.
        rounds: medians are taken over so many.
    """
    recipe = recipe_of(experiment)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare.measure(Path(folder), rounds=rounds)
        views = pipeline.measure(Path(folder), rounds=rounds, workers=workers)
    with torch.device("meta"):
        gradients = sum(parameter.numel() for parameter in build(experiment).parameters())
    exchanged = exchange.measure(device, gradients)
    step = next(r for r in entry["rows"] if r["implementation"] == "ours" and r["arithmetic"] == recipe.arithmetic)
    devices = exchanged["processes"] if exchanged and device.type == "cuda" else 1
    rates = {
        "data": views["images_per_second"][f"ours, {recipe.decoder}"],
        "step": round(step["images_per_second"] * devices, 1),
        "exchange": exchanged and round(recipe.batch_size / exchanged["seconds"], 1),
    }
    limit = min((name for name, rate in rates.items() if rate), key=rates.__getitem__)
    images = recipe.iterations * recipe.batch_size
    return {
        "prepare": prepared,
        "pipeline": views,
        "exchange": exchanged,
        "limits": {
            "devices": devices,
            "images_per_second": rates,
            "limit": limit,
            "images_of_a_run": images,
            "hours_of_a_run": round(images / rates[limit] / 3600, 1),
        },
    }
