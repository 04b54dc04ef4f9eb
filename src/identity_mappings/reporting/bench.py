"""results/bench/: the records of `bench` as a page and a plot of time against depth."""

from pathlib import Path
from typing import Any

import matplotlib
import pandas
from matplotlib.figure import Figure as Drawing

from ..parameters import load
from ..records import measurement
from ..records.files import write_atomically
from .drawing import COLOURS, STYLE, to_files
from .rendering import render

LINES = {"ours": "-", "eager": "--", "pytorchcv": ":"}
Entries = dict[str, list[dict[str, Any]]]  # by device


def _row(entry: dict[str, Any], row: dict[str, Any]) -> dict[str, str]:
    ratios = [
        f"{ratio:.2f} x" + ("" if arithmetic == row["arithmetic"] else f" ({arithmetic})")
        for arithmetic, ratio in row["ratios"].items()
    ]
    seconds = row["median_seconds"]
    return {
        "network": entry["experiment"],
        "arithmetic": row["arithmetic"],
        "step": row["implementation"] + (f", {row['runs_at_once']} at once" if row["runs_at_once"] > 1 else ""),
        "ms": f"{seconds * 1e3:,.1f}",
        "steps/s": f"{1 / seconds:.3g}",
        "images/s": f"{row['images_per_second']:,.0f}",
        "against": ", ".join(ratios),
        "of the bound": f"{entry['bounds'][row['arithmetic']]['seconds'] / seconds:.0%}",
        "memory, GiB": f"{row['peak_memory_bytes'] / 2**30:.2f}",
    }


def _profiles(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Name and profiles, before and after, of the deepest network that has both."""
    names = ("eager, float32", "ours, float32")
    profiled = [entry for entry in entries if set(names) <= set(entry["profiles"])]
    if not profiled:
        return {}
    tables = []
    for name in names:
        profile = pandas.DataFrame(profiled[-1]["profiles"][name])
        profile["ms"], profile["share"] = profile["seconds"] * 1e3, profile["share"].map("{:.1%}".format)
        columns = profile.rename(columns={"name": name})[[name, "calls", "ms", "share"]]
        tables.append(columns.to_markdown(index=False, tablefmt="github", floatfmt=".1f"))
    return {"experiment": profiled[-1]["experiment"], "tables": tables}


def document(found: Entries) -> str:
    """bench.md."""
    devices = [
        {
            "name": name,
            "threads": None if name.startswith("gpu") else entries[-1]["provenance"]["settings"]["cpu_threads"],
            "bounds": entries[-1]["bounds"],
            "rows": [_row(entry, row) for entry in entries for row in entry["rows"]],
            "entries": entries,
            "profiled": _profiles(entries),
        }
        for name, entries in found.items()
    ]
    return render("bench.md.jinja", devices=devices)


def draw(found: Entries) -> Drawing:
    """Time of a step against depth, a line for each implementation; float32."""
    drawing = Drawing(figsize=(5.5, 3.4), layout="constrained")
    axes = drawing.subplots()
    series: dict[str, list[tuple[int, float]]] = {}
    for device, entries in found.items():
        for entry in (entry for entry in entries if "limits" not in entry):  # ImageNet's have limits
            for row in entry["rows"]:
                if row["arithmetic"] == "float32" and row["runs_at_once"] == 1:
                    unit = "bottleneck" if "164" in entry["experiment"] or "1001" in entry["experiment"] else "basic"
                    label = f"{row['implementation']}, {unit} units, {device}"
                    series.setdefault(label, []).append((entry["layers"], row["median_seconds"]))
    for colour, (label, points) in zip(COLOURS, sorted(series.items()), strict=False):
        line = "o" + LINES[label.split(",")[0]]
        axes.plot(*zip(*sorted(points), strict=True), line, color=colour, markersize=3, label=label)
    axes.set(xscale="log", yscale="log", xlabel="layers", ylabel="seconds a step of 128 images")
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
        for name, content in to_files(draw(found), "time-by-depth").items():
            write_atomically(folder / name, content)
    print(f"{folder / 'bench.md'}: {', '.join(found) or 'no records yet'}")
