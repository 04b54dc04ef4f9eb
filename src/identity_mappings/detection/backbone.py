"""The trained network that a detection begins from: a run on ImageNet, or weights that were trained elsewhere."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..networks.vgg import Vgg
from ..records import run
from ..records.experiment import Experiment
from ..records.files import sha256_of
from ..training import checkpoint
from ..training.imported import DEVIATION, MEAN, read_weights
from ..training.trainer import Options

KEPT = "imported-{}.pt"  # with the checkpoints


def folders(experiment: Experiment, results: Path) -> tuple[Path, Path]:
    """Of the backbone's run: the record, and its weights."""
    chosen = experiment.parameters["backbone"]
    place = Path(f"{chosen['experiment']}-{chosen['digest']}") / f"seed{chosen['seed']}"
    return results / "runs" / place, results / "checkpoints" / place / run.WEIGHTS


def load(experiment: Experiment, options: Options) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights, and {what they come from: its hash} for the provenance.

    Raises:
        UserError: they are not here, or not those of their record; or batch norm's statistics are moving averages.
    """
    chosen = experiment.parameters["backbone"]
    if "imported" in chosen:
        path = options.results / "checkpoints" / KEPT.format(chosen["weights_sha256"][:12])
        state = checkpoint.read(path)
        if checkpoint.weights_sha256(state) != chosen["weights_sha256"]:
            raise UserError(f"{path}: not the weights of {experiment.name}: import them again (--backbone FILE)")
        return state, {"imported weights": chosen["weights_sha256"]}
    record, weights = folders(experiment, options.results)
    name = chosen["experiment"]
    if not (record / run.METRICS).is_file() or not weights.is_file():
        raise UserError(
            f"{weights}: {experiment.name} begins from {name}, whose weights are not here: train it first "
            f"(identity-mappings train {name} --scale {experiment.scale}), or copy the file from where it was trained"
        )
    import json

    metrics = json.loads((record / run.METRICS).read_bytes())
    state = checkpoint.read(weights)
    if checkpoint.weights_sha256(state) != metrics["weights_sha256"]:
        raise UserError(f"{weights}: not the weights of {record}: restore them, or train {name} again")
    if chosen["statistics"] != "recomputed" and any(key.endswith("running_mean") for key in state):
        raise UserError(f"{name}: its batch norm has moving averages: give its recipe test_statistics: recomputed")
    parents = {"weights": metrics["weights_sha256"], "metrics.json": sha256_of(record / run.METRICS)}
    return state, parents


def read_imported(file: Path, name: str, source: str, results: Path) -> dict[str, Any]:
    """Take weights in torchvision's names (a ResNet's, or VGG's of 16 or 19 layers) as a backbone, and keep them.

    Returns:
        {"network", "backbone"} of a detection's parameters.

    Raises:
        UserError: the file has none of such weights.
    """
    saved = checkpoint.read(file)
    if any(key.startswith("features.") for key in saved):
        depth = {32: 16, 38: 19}.get(sum(key.startswith(("features.", "classifier.")) for key in saved))
        if depth is None:
            raise UserError(f"{file}: VGG of neither 16 nor 19 layers, or with batch norm: give torchvision's vgg16")
        network: dict[str, Any] = {"family": "vgg", "depth": depth, "shortcut": {"kind": "identity"}}
        state = {key.replace("classifier", "linear"): value.float() for key, value in saved.items()}
        wanted = {key: value.shape for key, value in Vgg(depth, dropout=0.5).state_dict().items()}
        if {key: value.shape for key, value in state.items()} != wanted:
            raise UserError(f"{file}: not the weights of torchvision's VGG-{depth}")
    else:
        network, state = read_weights(file)
        network["shortcut"] = {"kind": "identity"}
    digest = checkpoint.weights_sha256(state)
    path = results / "checkpoints" / KEPT.format(digest[:12])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    chosen = {
        "imported": name,
        "source": source,
        "weights_sha256": digest,
        "classes": len(state["linear.6.bias" if network["family"] == "vgg" else "linear.bias"]),
        "size": 224,
        "mean": list(MEAN),
        "deviation": list(DEVIATION),
        "batch_norm_eps": 1e-5,
        "statistics": "as the file has them",
        "dropout": 0.5 if network["family"] == "vgg" else None,
    }
    return {"network": network, "backbone": chosen}
