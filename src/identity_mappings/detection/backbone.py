"""The trained network that a detection begins from: a run on ImageNet, or weights that were trained elsewhere."""

import json
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..errors import UserError
from ..networks.torchvision_weights import VGG_DROPOUT
from ..records import run
from ..records.experiment import Experiment
from ..records.files import sha256, write_atomically
from ..training import checkpoint
from ..training.imported import DEVIATION, MEAN, read_weights
from ..training.trainer import Options


def get_paths(experiment: Experiment, results: Path) -> tuple[Path, Path]:
    """The folder of the backbone's record, and the file of its weights."""
    chosen = experiment.parameters["backbone"]
    place = Path(f"{chosen['experiment']}-{chosen['digest']}") / f"seed{chosen['seed']}"
    return results / "runs" / place, results / "checkpoints" / place / run.WEIGHTS


def _get_imported_path(results: Path, digest: str) -> Path:
    return results / "checkpoints" / f"imported-{digest[:12]}.pt"


def load(experiment: Experiment, options: Options) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights, and {what they come from: its hash} for the provenance.

    Raises:
        UserError: they are not here, or not those of their record; or batch norm's statistics are moving averages.
    """
    chosen = experiment.parameters["backbone"]
    if "imported" in chosen:
        wanted = chosen["weights_sha256"]
        state = checkpoint.read_saved(path := _get_imported_path(options.results, wanted))
        if checkpoint.weights_sha256(state) != wanted:
            raise UserError(f"{path}: not the weights of {experiment.name}: import them again (--backbone FILE)")
        return state, {"imported weights": wanted}
    (record, weights), name = get_paths(experiment, options.results), chosen["experiment"]
    if not (record / run.METRICS).is_file() or not weights.is_file():
        raise UserError(
            f"{weights}: {experiment.name} begins from {name}, whose weights are not here: train it first "
            f"(identity-mappings train {name} --scale {experiment.scale}), or copy the file from where it was trained"
        )
    content, state = (record / run.METRICS).read_bytes(), checkpoint.read_saved(weights)
    wanted = json.loads(content)["weights_sha256"]
    if checkpoint.weights_sha256(state) != wanted:
        raise UserError(f"{weights}: not the weights of {record}: restore them, or train {name} again")
    if chosen["statistics"] != "recomputed" and any(key.endswith("running_mean") for key in state):
        raise UserError(f"{name}: its batch norm has moving averages: give its recipe test_statistics: recomputed")
    return state, {"weights": wanted, run.METRICS: sha256(content)}


def import_backbone(experiment: Experiment, file: Path, name: str, source: str, results: Path) -> Experiment:
    """A detection on weights in torchvision's names (a ResNet's, or VGG's of 16 or 19 layers): another experiment.

    The weights are kept in the folder of results.

    Raises:
        UserError: the file has none of such weights.
    """
    network, state = read_weights(file)
    digest = checkpoint.weights_sha256(state)
    write_atomically(_get_imported_path(results, digest), checkpoint.to_bytes(state))
    chosen = {
        "imported": name,
        "source": source,
        "weights_sha256": digest,
        "classes": len(list(state.values())[-1]),
        "size": 224,
        "mean": list(MEAN),
        "deviation": list(DEVIATION),
        "batch_norm_eps": 1e-5,
        "statistics": "as the file has them",
        "dropout": VGG_DROPOUT if network["family"] == "vgg" else None,
    }
    network["shortcut"] = {"kind": "identity"}
    parameters = {**experiment.parameters, "network": network, "backbone": chosen}
    return replace(experiment, name=f"{experiment.name}-{name}", parameters=parameters)
