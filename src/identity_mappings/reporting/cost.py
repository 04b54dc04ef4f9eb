"""`identity-mappings cost`: weights and multiply-adds of every network, counted twice, beside the papers' figures."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..networks.closed_form import Cost, closed_form
from ..networks.cost import count
from ..parameters import Project, load
from ..records import cost, measurement, provenance
from ..records.experiment import Experiment
from ..records.files import canonical, json_bytes, sha256
from ..training.assembly import build
from . import fingerprint, verdict
from .cells import counted_value


def counted(experiment: Experiment, root: Path) -> tuple[Cost, bool | None]:
    """The cost of an experiment's network, and whether a closed form gives the same; None where there is none.

    Raises:
        UserError: the count and the closed form differ.
    """
    dataset = experiment.parameters["dataset"]
    with torch.device("meta"):
        network = build(experiment, root)
    found = count(network, dataset["channels"], dataset["size"])
    expected = closed_form(experiment.parameters["network"], dataset["classes"], dataset["channels"], dataset["size"])
    if expected is not None and expected != found:
        raise UserError(f"{experiment.name}: torch counts {found}, the closed form is {expected}: one of them is wrong")
    return found, None if expected is None else True


def count_all(project: Project, scale: str) -> dict[str, dict[str, Any]]:
    """What the cost record holds: {network digest: entry} of every network of a scale."""
    known: dict[str, tuple[Cost, bool | None]] = {}
    entries = {}
    for experiment in project.counted(scale):
        # A gate's initial bias, a scale other than 0 or a dropout ratio costs nothing: count such networks once.
        alike = sha256(canonical(_of_cost(experiment)))
        if alike not in known:
            known[alike] = counted(experiment, project.root)
        found, checked = known[alike]
        entries[experiment.network_digest] = cost.entry(
            experiment, **asdict(found), multiply_adds=found.multiply_adds, agrees_with_closed_form=checked
        )
    return entries


def _of_cost(experiment: Experiment) -> dict[str, Any]:
    dataset, network = experiment.parameters["dataset"], dict(experiment.parameters["network"])
    if network["shortcut"]["kind"].endswith("gate"):
        network["shortcut"] = {"kind": "gate"}
    return {**network, **{key: dataset[key] for key in ("classes", "channels", "size")}}


def record(scale: str, root: Path = Path()) -> Path:
    """Count every network of a scale and write the cost record."""
    project = load(root)
    folder = root / project.scale(scale).results / cost.FOLDER
    networks = count_all(project, scale)
    content = {
        "format": cost.FORMAT,
        "fingerprint": fingerprint.of_cost(project, scale),
        "unit": "weights; multiply-adds of one image, forward: two FLOPs each",
        "networks": networks,
    }
    origin = provenance.of_measurement(
        "cost",
        f"identity-mappings cost --scale {scale} --record",
        root,
        parents={},
        settings={"counter": "torch.utils.flop_counter.FlopCounterMode", "checked_by": "networks/closed_form.py"},
    )
    measurement.write(folder, cost.NAME, json_bytes(content), origin)
    print(f"{folder / cost.NAME}: {len(networks)} networks")
    return folder / cost.NAME


def is_current(project: Project, scale: str) -> bool:
    """Whether the cost record of a scale is of the networks that there are now."""
    path = project.root / project.scale(scale).results / cost.FOLDER / cost.NAME
    try:
        return json.loads(path.read_bytes())["fingerprint"] == fingerprint.of_cost(project, scale)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def show(scale: str, root: Path = Path()) -> int:
    """Count and print every network with the papers' figures; 1 if one of these contradicts the count, else 0."""
    project = load(root)
    networks = count_all(project, scale)
    shown = Table(show_edge=False, pad_edge=False)
    shown.add_column("network", no_wrap=True)
    shown.add_column("paper")
    for name in ("layers", "weights", "without BN", "multiply-adds"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("published", justify="right", no_wrap=True)
    shown.add_column("agreement")
    contradicted = False
    for digest, entry in networks.items():
        claims = _claims(project, scale, digest, networks)
        contradicted |= any(judged == verdict.DIFFERS for _, _, judged in claims)
        shown.add_row(
            entry["experiment"],
            ", ".join(dict.fromkeys(paper for paper, _, _ in claims)),
            str(entry["network"]["depth"]),
            f"{entry['weights']:,}",
            f"{entry['weights_without_batch_norm']:,}",
            f"{entry['multiply_adds']:,}",
            "\n".join(text for _, text, _ in claims),
            "\n".join(judged for _, _, judged in claims),
        )
    console = Console() if sys.stdout.isatty() else Console(width=150)
    console.print(shown)
    console.print(
        "Weights: all that are trained; without BN: convolutions and linear layers. Multiply-adds: convolutions and "
        "linear layers of one image, forward, by torch's FLOP counter and by a closed form that agree.\n"
        f"{verdict.COUNT_RULE}",
        highlight=False,
    )
    return int(contradicted)


def _claims(
    project: Project, scale: str, digest: str, networks: dict[str, dict[str, Any]]
) -> list[tuple[str, str, str]]:
    """What the papers print of a network: paper, text, and whether it agrees; each once."""
    found: dict[tuple[str, str, str], None] = {}
    papers: dict[str, None] = {}
    for table in project.tables.values():
        for cell in (cell for row in table.rows for cell in row.cells.values()):
            resolved = [project.resolve(name, scale) for name in cell.experiments]
            if digest not in [experiment.network_digest for experiment in resolved if experiment]:
                continue
            papers[table.paper] = None
            if cell.is_cost and cell.published is not None:
                value = counted_value(project, scale, cell, networks)
                judged = verdict.judge_count(value, cell.published) if project.scale(scale).published else ""
                text = f"{cell.published} ({cell.counted})"
                found[table.paper, text, judged] = None
    return list(found) or [(paper, "", "") for paper in papers]
