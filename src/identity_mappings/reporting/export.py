"""`identity-mappings export`: a run's trained weights, to be used without this project."""

import inspect
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.images import load_images
from ..errors import UserError
from ..networks import families
from ..records import run
from ..records.experiment import Experiment
from ..records.files import json_bytes, write_atomically
from ..training import checkpoint, verify
from ..training.assembly import build, get_arguments, get_recipe
from ..training.feeds import Resident
from ..training.group import Group
from ..training.trainer import Options
from .rendering import render

CARD, PACKAGE = "README.md", "network"
MODULES = ("resnet", "vgg", "residual", "units", "shortcuts", "batch_norm", "depth")


def export(folder: Path, options: Options, output: Path | None = None) -> Path:
    """Write the trained weights of a finished run with all that it takes to use them.

    Args:
        folder: of the run's record, results/runs/EXPERIMENT-DIGEST/seedK.
        options: where the data lie, for the mean image.
        output: folder of all exports (default: models/ in the project's root).

    Returns:
        The folder of this export: model.safetensors, config.json, README.md (a model card) and network/ (its code).

    Raises:
        UserError: no finished record, no weights or others than the record's, no data, or a custom shortcut whose file
            has changed since.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        cure = "make env, or pip install safetensors"
        raise UserError(f"export: the package safetensors is not installed: {cure}") from None
    folder = folder.parent if folder.is_file() else folder
    experiment, record = verify.read_record(folder, options.root)
    if record.metrics["status"] != "finished":
        raise UserError(f"{folder}: {record.metrics['status']}: only the weights of a finished run are exported")
    weights = checkpoint.read_trained(experiment, record, folder.parents[2], options.root)
    family, arguments = get_arguments(experiment)
    tensors = families.as_tensors(weights, *_find_normalization(experiment, record.metrics["seed"], options))
    about = {key: str(record.metrics[key]) for key in ("experiment", "digest", "seed", "weights_sha256")}
    target = (output or options.root / run.MODELS) / experiment.folder / folder.name
    write_atomically(target / families.WEIGHTS, save(tensors, metadata={"format": "pt"}))
    config = {"family": family, "arguments": arguments, "experiment": experiment.as_json(), "weights": about}
    write_atomically(target / families.CONFIG, json_bytes(config))
    sources = Path(inspect.getfile(families)).parent
    for module, name in [("families", "__init__"), *((name, name) for name in MODULES)]:
        write_atomically(target / PACKAGE / f"{name}.py", (sources / f"{module}.py").read_bytes())
    if experiment.parameters["network"]["shortcut"]["kind"] == "custom":
        build(experiment, options.root)  # refuses another file than the record's
        text = (options.root / str(experiment.custom_source)).read_text("utf-8")
        # In an export the project's networks are the package beside it.
        text = text.replace("from identity_mappings.networks.", "from .").replace(
            "from identity_mappings.networks ", "from . "
        )
        write_atomically(target / PACKAGE / f"{families.OWN_SHORTCUT}.py", text.encode())
    write_atomically(target / CARD, _render_card(experiment, record, tensors))
    return target


def _find_normalization(experiment: Experiment, seed: int, options: Options) -> tuple[Tensor, Tensor]:
    """Mean and deviation that the network's images were normalized by."""
    recipe, dataset, cpu = get_recipe(experiment), experiment.parameters["dataset"], torch.device("cpu")
    if recipe.normalization == "channel-mean-and-deviation":
        return torch.tensor(recipe.channel_mean).view(-1, 1, 1), torch.tensor(recipe.channel_deviation).view(-1, 1, 1)
    deviation = torch.ones(dataset["channels"], 1, 1)
    if experiment.streamed:
        from ..training.streamed import Streamed  # needs torchvision and Pillow

        feed = Streamed(dataset, recipe, seed, cpu, Group(), options.data_folder, options.workers)
        mean = torch.as_tensor(feed.normalize.image)[0].contiguous()
        feed.close()
        return mean, deviation
    images = load_images(dataset, options.data_folder)
    return Resident(images, recipe, seed, cpu).augmentation.mean, deviation


def _render_card(experiment: Experiment, record: run.Record, tensors: dict[str, Tensor]) -> bytes:
    """The model card: a YAML head with the model-index that model hubs read, and a page for people."""
    parameters = experiment.parameters
    text = render(
        "model-card.md.jinja",
        experiment=experiment,
        metrics=record.metrics,
        origin=record.provenance,
        **{key: parameters[key] for key in ("dataset", "network", "recipe")},
        recipe_json=json_bytes(parameters["recipe"]).decode().strip(),
        others=_summarize_seeds(experiment, record),
        count=sum(tensor.numel() for name, tensor in tensors.items() if not name.startswith(families.NORMALIZATION)),
    )
    return (text.strip() + "\n").encode()


def _summarize_seeds(experiment: Experiment, record: run.Record) -> dict[str, Any]:
    """Errors of all finished runs of the experiment that are here, for the spread."""
    errors = {}
    for folder in sorted(record.path.parents[1].glob("seed*")):
        seed = folder.name.removeprefix("seed")
        try:
            found = run.read_record(folder, experiment, int(seed)) if seed.isdecimal() else None
        except run.BadRecord:
            continue
        if found and found.test_error is not None:
            errors[int(seed)] = found.test_error
    deviation = statistics.stdev(errors.values()) if len(errors) > 1 else None
    return {"errors": dict(sorted(errors.items())), "mean": statistics.mean(errors.values()), "deviation": deviation}


def track(root: Path) -> None:
    """Put models/ into DVC's cache and write models.dvc, so that `dvc push` and `dvc pull` carry the weights.

    Raises:
        UserError: this is no DVC repository.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import NoSCMError

    try:
        with Repo(str(root)) as repo:
            repo.add(str(root / run.MODELS))
    except (DvcException, NoSCMError) as error:
        raise UserError(f"{root / run.MODELS}: exported, but DVC could not take it into its cache: {error}") from None
