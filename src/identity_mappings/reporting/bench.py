"""results/bench/: the records of `bench` as a table and a plot of time against depth."""

from pathlib import Path
from typing import Any

import matplotlib
import tabulate
from matplotlib.figure import Figure as Drawing

from ..parameters import load
from ..records import measurement
from ..records.files import write_atomically
from .drawing import COLOURS, STYLE, saved

TEXT = """\
# Speed of a training step

Made by `identity-mappings bench`, from the records beside it. *ours* is the recipe's whole step: order, crop and flip
of the images, the network with batch norm over 64 samples, the update. The others get a batch that is there already and
take batch norm over all of it: *eager* is plain PyTorch with the very same network, *pytorchcv* the published package's
network of that depth. A time is the median over rounds in which all took turns, each in a process of its own; *against*
is the median over the rounds of the faster other one's time by ours, in the same arithmetic and, where that is another,
in float32. *bound* is the longer of the step's arithmetic at the rate of a matrix product and its memory traffic at the
rate of a copy, both measured in the same call (a convolution can be quicker than the library's matrix product); memory
is the most that the process held, its libraries included, on a GPU what was allocated. Images are random: a step costs
the same whatever they show.
"""
NO_GPU = "Not measured: no record of a GPU yet. `identity-mappings bench` on a machine that has one makes it.\n"


def _against(row: dict[str, Any]) -> str:
    texts = [
        f"{ratio:.2f} x" + ("" if arithmetic == row["arithmetic"] else f" ({arithmetic})")
        for arithmetic, ratio in row["ratios"].items()
    ]
    return ", ".join(texts)


def _rows(entries: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for entry in entries:
        for row in entry["rows"]:
            bound = entry["bounds"][row["arithmetic"]]["seconds"]
            at_once = f", {row['runs_at_once']} at once" if row["runs_at_once"] > 1 else ""
            rows.append(
                [
                    entry["experiment"],
                    row["arithmetic"],
                    row["implementation"] + at_once,
                    f"{row['median_seconds'] * 1e3:,.1f}",
                    f"{1 / row['median_seconds']:.3g}",
                    f"{row['images_per_second']:,.0f}",
                    _against(row),
                    f"{bound / row['median_seconds']:.0%}",
                    f"{row['peak_memory_bytes'] / 2**30:.2f}",
                ]
            )
    return rows


def _kept(entries: list[dict[str, Any]]) -> list[str]:
    """What each network keeps for the backward pass: most of what a step needs beside weights and libraries."""
    texts = [f"{entry['experiment']} {entry['kept_for_backward_bytes'] / 1e9:.2f} GB" for entry in entries]
    return [f"Kept for the backward pass, float32, counted: {', '.join(texts)}.", ""]


def _surroundings(entries: list[dict[str, Any]]) -> list[str]:
    """On ImageNet: what feeds a step, and what limits a training."""
    lines = []
    for entry in (entry for entry in entries if "limits" in entry):
        prepared, views, limits = entry["prepare"], entry["pipeline"], entry["limits"]
        rates = {name: f"{rate:,.0f}" if rate else "not measured" for name, rate in limits["images_per_second"].items()}
        speed = prepared["bytes"] / prepared["seconds"]["prepare"] / 1e6
        peer = views["images_per_second"]["torchvision"]
        ours = ", ".join(f"{name.removeprefix('ours, ')} {ratio:.2f} x" for name, ratio in views["ratios"].items())
        lines += [
            f"### What surrounds a step of {entry['experiment']}",
            "",
            f"- `data prepare`: {prepared['ratio']:.2f} x the bytes per second and core of reading the archive once "
            f"and taking its MD5 ({speed:,.0f} MB/s by the clock).",
            f"- Training views of 224 from files of {views['file_kilobytes']:.0f} kB, {views['workers']} workers, "
            f"against torchvision's ImageFolder and DataLoader ({peer:,.0f} images/s): {ours}.",
            f"- Images per second: data {rates['data']}, step {rates['step']}, exchange of the gradients "
            f"{rates['exchange']}. The {limits['limit']} limits: a run of {limits['images_of_a_run'] / 1e6:,.0f} "
            f"million images would take {limits['hours_of_a_run']:,.0f} hours on this machine.",
            "",
        ]
    return lines


def _operations(entries: list[dict[str, Any]]) -> list[str]:
    """What a step spends its time on, of the deepest network that has a profile before and after."""
    both = [e for e in entries if {"eager, float32", "ours, float32"} <= set(e["profiles"])]
    if not both:
        return []
    entry = both[-1]
    lines = [f"### A step of {entry['experiment']}, float32: before (eager) and after (ours)", ""]
    for name in ("eager, float32", "ours, float32"):
        rows = [
            [o["name"], o["calls"], f"{o['seconds'] * 1e3:.1f}", f"{o['share']:.1%}"] for o in entry["profiles"][name]
        ]
        lines += [tabulate.tabulate(rows, [name, "calls", "ms", "share"], tablefmt="github"), ""]
    return lines


def document(found: dict[str, list[dict[str, Any]]]) -> str:
    """bench.md."""
    lines = [TEXT]
    headers = ["network", "arithmetic", "step", "ms", "steps/s", "images/s", "against", "of the bound", "memory, GiB"]
    for device, entries in found.items():
        made = entries[-1]["provenance"]["settings"]
        bounds = entries[-1]["bounds"]
        measured = "; ".join(
            f"{arithmetic} {rate['operations_per_second'] / 1e9:,.0f} GFLOP/s, copy "
            f"{rate['copy_bytes_per_second'] / 1e9:,.0f} GB/s"
            for arithmetic, rate in bounds.items()
        )
        threads = "" if device.startswith("gpu") else f", {made['cpu_threads']} threads"
        lines += [f"## {device}{threads}", "", f"Measured rates: {measured}.", ""]
        lines += [tabulate.tabulate(_rows(entries), headers, tablefmt="github", disable_numparse=True), ""]
        lines += _kept(entries)
        lines += _surroundings(entries)
        lines += _operations(entries)
    if not any(device.startswith("gpu") for device in found):
        lines += ["## GPU", "", NO_GPU]
    return "\n".join(lines)


def draw(found: dict[str, list[dict[str, Any]]]) -> Drawing:
    """Time of a step against depth, each implementation with its points; float32."""
    drawing = Drawing(figsize=(5.5, 3.4), layout="constrained")
    axes = drawing.subplots()
    series: dict[str, list[tuple[int, float]]] = {}
    for device, entries in found.items():
        for entry in (entry for entry in entries if "limits" not in entry):  # not ImageNet's
            for row in entry["rows"]:
                if row["arithmetic"] == "float32" and row["runs_at_once"] == 1:
                    unit = "bottleneck" if "164" in entry["experiment"] or "1001" in entry["experiment"] else "basic"
                    label = f"{row['implementation']}, {unit} units, {device}"
                    series.setdefault(label, []).append((entry["layers"], row["median_seconds"]))
    styles = {"ours": "-", "eager": "--", "pytorchcv": ":"}
    for colour, (label, points) in zip(COLOURS, sorted(series.items()), strict=False):
        points.sort()
        axes.plot(
            *zip(*points, strict=True), "o" + styles[label.split(",")[0]], color=colour, markersize=3, label=label
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("layers")
    axes.set_ylabel("seconds a step of 128 images")
    axes.set_title("Time of a training step against depth, CIFAR, float32", fontsize=9)
    axes.legend(fontsize=6)
    return drawing


def write(root: Path) -> None:
    """Make bench.md and time-by-depth.png and .svg from the records that are there."""
    results = root / load(root).scale("paper").results
    found = measurement.read_bench(results)
    folder = results / measurement.BENCH
    write_atomically(folder / "bench.md", document(found).encode())
    with matplotlib.rc_context(STYLE):
        drawing = draw(found)
        for form in ("svg", "png"):
            write_atomically(folder / f"time-by-depth.{form}", saved(drawing, form))
    print(f"{folder / 'bench.md'}: {', '.join(found) or 'no records yet'}")
