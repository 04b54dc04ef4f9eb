"""Measure the speed of a training step, and of ImageNet's training views, against other implementations.

Leaves results/bench/DEVICE/NETWORK/bench.json, its provenance, and the pages that are made of all records.
"""

import argparse
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from identity_mappings.errors import UserError
from identity_mappings.parameters import load
from identity_mappings.records import machine, measurement, provenance
from identity_mappings.records.experiment import Experiment
from identity_mappings.records.files import hash_file, json_bytes
from identity_mappings.reporting import benchmarks
from identity_mappings.training import devices
from identity_mappings.training.assembly import get_recipe

from .pages import write_pages
from .steps import measure_steps
from .views import measure_views
from .worker import PACKAGES

COMPARED = ("cifar10-resnet20", "cifar10-resnet110", "cifar10-resnet164-full-pre-activation", "imagenet-resnet50")
BY_DEPTH = ("cifar10-resnet56", "cifar10-resnet1001-full-pre-activation", "cifar10-resnet1202")  # our step alone


def get_folder(results: Path, hardware: dict[str, Any], experiment: str) -> Path:
    """Folder of a record, by the device's name."""
    gpu = hardware.get("gpu")
    name = f"gpu-{gpu['model']}" if gpu else f"cpu-{hardware['cpu']}"
    return results / benchmarks.BENCH / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") / experiment


def measure(experiment: Experiment, device: torch.device, results: Path, peers: bool, rounds: int) -> None:
    """Measure a network and leave its record."""
    measured, hardware = experiment, devices.describe(device)
    if experiment.streamed and device.type == "cpu":  # there, replicas follow one another: one is enough
        recipe = experiment.parameters["recipe"]
        recipe = {**recipe, "batch_size": recipe["batch_norm_samples"]}
        measured = replace(experiment, parameters={**experiment.parameters, "recipe": recipe})
    entry = measure_steps(measured, device, peers, rounds)
    if not entry["rows"]:
        return
    if experiment.streamed:
        with tempfile.TemporaryDirectory() as folder:
            entry["pipeline"] = measure_views(Path(folder), machine.count_cores(), rounds)
    origin = provenance.describe_measurement(
        "bench",
        f"python -m benchmarks {' '.join(sys.argv[1:])}".rstrip(),
        Path(),
        parents={},
        settings={
            "digest": experiment.digest,
            "hardware": hardware,
            "libraries": devices.libraries(device),
            "cpu_threads": get_recipe(experiment).cpu_threads,
            **{package: provenance.find_version(package) for package in PACKAGES},
        },
    )
    origin["source"] |= {f"benchmarks/{path.name}": hash_file(path) for path in Path(__file__).parent.glob("*.py")}
    folder = get_folder(results, hardware, experiment.name)
    measurement.write_measurement(folder, benchmarks.RECORD, json_bytes(entry), origin)
    print(f"{folder / benchmarks.RECORD}: {len(entry['rows'])} rows", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("experiments", nargs="*", help=f"(default: {', '.join((*COMPARED, *BY_DEPTH))})")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="(default: gpu)")
    parser.add_argument("--rounds", type=int, default=7, help="of which medians are taken (default: 7)")
    parser.add_argument("--show", action="store_true", help="measure nothing, make the pages from the records")
    options, project = parser.parse_args(), load()
    results = Path(project.scale("paper").results)
    if not options.show:
        if options.device == "gpu" and not torch.cuda.is_available():
            raise UserError("bench: no GPU here; for the CPU: make bench BENCH_ARGS='--device cpu'")
        device = torch.device("cuda" if options.device == "gpu" else "cpu")
        for name in options.experiments or (*COMPARED, *BY_DEPTH):
            peers = bool(options.experiments) or name in COMPARED
            measure(project.resolve(name), device, results, peers, options.rounds)
    write_pages(Path(), results)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
