"""`identity-mappings cost`: weights and multiply-adds of every network, counted twice, beside the papers' figures."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from .. import networks
from ..networks.cost import Cost, count
from ..parameters import Project, load
from ..records import measurement, provenance
from ..records.experiment import Experiment
from ..records.files import canonical, json_bytes, sha256
from ..records.run import BadRecord
from ..training.assembly import build
from . import verdict
from .cells import find_count

CONVENTIONS = {
    "with batch norm": "with BN",
    "without batch norm": "without BN",
    "with linear layers": "multiply-adds",
    "without linear layers": "of convolutions",
}
EXPLANATION = (
    "Weights are all that are trained; without BN: those of convolutions and linear layers. Multiply-adds are of one "
    "image, forward: convolutions and linear layers, projections and gates included; biases, batch norm, activations, "
    "pooling and additions are not. All are counted by torch."
)


def count_network(experiment: Experiment, root: Path) -> Cost:
    dataset = experiment.parameters["dataset"]
    with torch.device("meta"):
        network = build(experiment, root)
    return count(network, dataset["channels"], dataset["size"])


def count_all(project: Project, scale: str) -> dict[str, dict[str, Any]]:
    """What the cost record holds: {network digest: entry} of every network of a scale."""
    known: dict[str, Cost] = {}
    entries = {}
    for experiment in project.list_one_per_network(scale):
        dataset, network = experiment.parameters["dataset"], dict(experiment.parameters["network"])
        # The initial bias of a gate costs nothing: count such networks once.
        if network["shortcut"]["kind"].endswith("gate"):
            network["shortcut"] = {"kind": "gate"}
        alike = sha256(canonical({**network, **{key: dataset[key] for key in ("classes", "channels", "size")}}))
        if alike not in known:
            known[alike] = count_network(experiment, project.root)
        found = known[alike]
        entries[experiment.network_digest] = measurement.describe_cost(
            experiment, **asdict(found), multiply_adds=found.multiply_adds
        )
    return entries


def record_costs(scale: str, root: Path = Path()) -> Path:
    """Count every network of a scale and write the cost record."""
    project = load(root)
    folder = root / project.scale(scale).results / measurement.COST
    counted = count_all(project, scale)
    content = {
        "format": measurement.COST_FORMAT,
        "unit": "weights; multiply-adds of one image, forward: two FLOPs each",
        "networks": counted,
    }
    command = f"identity-mappings cost --scale {scale} --record"
    settings = {"counter": "torch.utils.flop_counter.FlopCounterMode"}
    origin = provenance.describe_measurement("cost", command, root, parents={}, settings=settings)
    measurement.write_measurement(folder, measurement.COST_JSON, json_bytes(content), origin)
    print(f"{folder / measurement.COST_JSON}: {len(counted)} networks")
    return folder / measurement.COST_JSON


def _read_or_count(project: Project, scale: str) -> tuple[dict[str, dict[str, Any]], str]:
    """The cost of every network of a scale, and where it comes from: the cost record, or counted now.

    Counted, if the record lacks a network, or is older than the code that builds and counts them.
    """
    results = project.root / project.scale(scale).results
    path, sources = results / measurement.COST / measurement.COST_JSON, Path(networks.__file__).parent.glob("*.py")
    try:
        recorded = measurement.read_costs(results) or {}
        digests = [experiment.network_digest for experiment in project.list_one_per_network(scale)]
        if all(each in recorded for each in digests) and path.stat().st_mtime > max(s.stat().st_mtime for s in sources):
            return {digest: recorded[digest] for digest in digests}, f"from {path}"
    except BadRecord as error:
        print(f"invalid record: {error}", file=sys.stderr)
    return count_all(project, scale), "counted now"


def print_costs(scale: str, root: Path = Path()) -> int:
    """Print every network of a scale with the papers' figures; 1 if one of these contradicts the count, else 0.

    Takes the cost record where it has these networks and is newer than their code; otherwise counts them.
    """
    project = load(root)
    counted, origin = _read_or_count(project, scale)
    shown = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    for name in ("network", "layers", "weights", "without BN", "multiply-adds", "published", "paper", "agreement"):
        shown.add_column(name, justify="left" if name in ("network", "paper", "agreement") else "right", no_wrap=True)
    contradicted = False
    names: dict[str, str] = {}  # the plainest, in the papers' order
    for cell in project.cells():
        for experiment in project.resolve_all(cell.experiments, scale):
            names.setdefault(experiment.network_digest, experiment.name)
    for digest, entry in counted.items():
        names.setdefault(digest, entry["experiment"])
    for digest, name in names.items():
        if digest not in counted:  # a detection
            continue
        entry = counted[digest]
        figures = _find_published(project, scale, digest, counted)
        contradicted |= any(judged == verdict.DIFFERS for _, _, judged in figures)
        places, texts, verdicts = ("\n".join(column) for column in zip(*figures, strict=True))
        counts = (f"{entry[key]:,}" for key in ("weights", "weights_without_batch_norm", "multiply_adds"))
        shown.add_row(name, str(entry["network"]["depth"]), *counts, texts, places, verdicts)
    console = Console(width=1000)
    wanted = Measurement.get(console, console.options, shown).maximum
    console = Console(width=max(wanted, Console().width))  # a narrower terminal would cut numbers off
    console.print(shown)
    rule = verdict.state_count_rule().replace("**", "")
    console.print(f"{len(counted)} networks, {origin}. {EXPLANATION} {rule}", highlight=False)
    return int(contradicted)


def _find_published(
    project: Project, scale: str, digest: str, networks: dict[str, dict[str, Any]]
) -> list[tuple[str, str, str]]:
    """What the papers print of a network: place, text, and whether it agrees; each once."""
    figures: dict[tuple[str, str, str], None] = {}
    places: dict[str, None] = {}
    for table in project.tables.values():
        place = f"{table.paper}, {table.table}"
        for cell in (cell for row in table.rows for cell in row.cells.values()):
            if digest not in [found.network_digest for found in project.resolve_all(cell.experiments, scale)]:
                continue
            places[place] = None
            if cell.is_cost and cell.published is not None:
                value, judged = find_count(project, scale, cell, networks), ""
                if value is not None and project.scale(scale).published:
                    judged = verdict.judge_count(value, cell.published)
                figures[place, f"{cell.published} {CONVENTIONS[cell.counted or '']}", judged] = None
    return list(figures) or [("; ".join(places), "", "")]
