"""Pages that are made of all records in results/bench/."""

from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.figure import Figure

from identity_mappings.records.files import json_bytes, write_atomically
from identity_mappings.reporting import benchmarks
from identity_mappings.reporting.drawing import COLOURS, STYLE, to_files

LINES = {"ours": "-", "eager": "--", "pytorchcv": ":"}
INTRODUCTION = "# Speed of a training step\n\nMade by `make bench`; [docs/speed.md](../../docs/speed.md) says how.\n\n"


def draw(found: benchmarks.ByDevice) -> Figure:
    """Time of a step on CIFAR against depth, a line for each implementation; float32."""
    drawing = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = drawing.subplots()
    series: dict[str, dict[int, float]] = {}
    for device, entries in found.items():
        for entry in entries:
            name = entry["experiment"]
            for row in entry["rows"] if name.startswith("cifar") else ():
                if row["arithmetic"] == "float32" and row["runs_at_once"] == 1 and row["implementation"] in LINES:
                    unit = "bottleneck" if "164" in name or "1001" in name else "basic"
                    points = series.setdefault(f"{row['implementation']}, {unit} units, {device}", {})
                    points.setdefault(entry["layers"], median(row["seconds"]))
    for colour, (label, points) in zip(COLOURS, sorted(series.items()), strict=False):
        line = "o" + LINES[label.split(",")[0]]
        axes.plot(*zip(*sorted(points.items()), strict=True), line, color=colour, markersize=3, label=label)
    axes.set(xscale="log", yscale="log", xlabel="layers", ylabel="seconds a step of 128 images")
    axes.set_title("Time of a training step against depth, CIFAR, float32", fontsize=9)
    axes.legend(fontsize=6)
    return drawing


def write_pages(root: Path, results: Path) -> None:
    """Make bench.md, the plot, their manifest, and the tables of docs/speed.md."""
    folder = results / benchmarks.BENCH
    found = benchmarks.read_records(results)
    write_atomically(folder / "bench.md", (INTRODUCTION + benchmarks.render_tables(found)).encode())
    with matplotlib.rc_context(STYLE):
        for name, content in to_files(draw(found), "time-by-depth").items():
            write_atomically(folder / name, content)
    write_atomically(folder / benchmarks.MANIFEST, json_bytes(benchmarks.hash_files(folder)))
    page = root / benchmarks.PAGE
    write_atomically(page, benchmarks.render_page(page.read_text("utf-8"), found).encode())
    print(f"{page}, {folder / 'bench.md'}: {', '.join(found) or 'no records yet'}")
