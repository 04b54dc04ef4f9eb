"""docs/speed.md: its tables, made of the records in results/bench/, and whether they say what the records say."""

from pathlib import Path
from statistics import median
from typing import Any

from ..records import measurement
from ..records.files import hash_file, parse_json
from .evidence import Gap, History, check_code
from .rendering import format_grid

BENCH, RECORD, MANIFEST = "bench", "bench.json", "manifest.json"
PAGE = "docs/speed.md"
BEGIN = "<!-- made from results/bench/ by `make bench`: do not edit -->\n"
END = "<!-- end of what is made from results/bench/ -->\n"
AGAIN = "restore it (git checkout), or make the pages again: make bench BENCH_ARGS=--show"

ByDevice = dict[str, list[dict[str, Any]]]  # by device, the shallow networks first


def list_records(results: Path) -> list[Path]:
    return sorted((results / BENCH).glob(f"*/*/{RECORD}"))


def read_records(results: Path) -> ByDevice:
    """All records of benchmarks.

    Raises:
        BadRecord: one of them is not what its provenance says.
    """
    found: ByDevice = {}
    for path in list_records(results):
        content, provenance = measurement.read_required(path.parent, RECORD)
        found.setdefault(path.parts[-3], []).append({**parse_json(content), "settings": provenance["settings"]})
    return {device: sorted(entries, key=lambda e: (e["layers"], e["experiment"])) for device, entries in found.items()}


def render_tables(found: ByDevice) -> str:
    """Steps and views of each device in Markdown."""
    parts = []
    for device, entries in found.items():
        threads = "" if device.startswith("gpu") else f", {entries[-1]['settings']['cpu_threads']} threads"
        parts.append(f"### {device}{threads}\n\n{format_grid([row for e in entries for row in _tabulate_steps(e)])}\n")
        for entry in entries:
            if views := entry.get("pipeline"):
                title = (
                    f"Training views of ImageNet, {views['workers']} workers, files of {views['file_kilobytes']} kB:"
                )
                parts.append(f"{title}\n\n{format_grid(_tabulate_views(views))}\n")
    return "\n".join(parts) or "Nothing is measured yet.\n"


def _tabulate_steps(entry: dict[str, Any]) -> list[dict[str, str]]:
    """A line for each implementation, behind our step that it was measured with."""
    lines: list[dict[str, str]] = []
    ours: list[float] = []
    for row in entry["rows"]:
        seconds, at_once = median(row["seconds"]), row["runs_at_once"]
        ratio = ""
        if row["implementation"] != "ours":
            ratio = f"{median(theirs / own for theirs, own in zip(row['seconds'], ours, strict=True)):.2f}"
        elif at_once == 1:
            ours = row["seconds"]
        line = {
            "network": entry["experiment"],
            "batch": str(entry["batch_size"]),
            "arithmetic": row["arithmetic"],
            "step": row["implementation"] + (f", {at_once} at once" if at_once > 1 else ""),
            "ms": f"{seconds * 1e3:,.1f}",
            "images/s": f"{entry['batch_size'] / seconds:,.0f}",
            "time / ours": ratio,
            "memory, GiB": f"{row['peak_memory_bytes'] / 2**30:.2f}",
        }
        lines.append(line)
    return lines


def _tabulate_views(views: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"views": name, "images/s": f"{rate:,.0f}", "/ torchvision's": f"{views['ratios'].get(name, 1):.2f}"}
        for name, rate in views["images_per_second"].items()
    ]


def render_page(text: str, found: ByDevice) -> str:
    """docs/speed.md with the tables of the records.

    Raises:
        Gap: it has no place for them.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise Gap(f"{PAGE}: the comments that enclose its tables are missing: restore it (git checkout)")
    return f"{before}{begin}\n{render_tables(found)}\n{end}{after}"


def hash_files(folder: Path) -> dict[str, str]:
    """{path: sha256} of all that is in results/bench/ but the manifest, which holds the same."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files if path.name != MANIFEST}


def check_record(path: Path, history: History) -> str:
    """Check that a record is what its provenance states, and that a commit has the sources that made it."""
    _, origin = measurement.read_required(path.parent, path.name)
    return check_code(path, origin, history)


def check_pages(root: Path, results: Path) -> None:
    """Check that pages and records are those of the manifest, and that docs/speed.md says what the records say."""
    folder, page = results / BENCH, root / PAGE
    found, path = hash_files(folder), folder / MANIFEST
    stated: dict[str, str] = parse_json(path.read_bytes()) if path.is_file() else {}
    for name in sorted(found.keys() | stated.keys()):
        if found.get(name) != stated.get(name):
            raise Gap(f"{folder / name}: not the file of {MANIFEST}: {AGAIN}")
    if page.is_file() and (text := page.read_text("utf-8")) != render_page(text, read_records(results)):
        raise Gap(f"{page}: its tables are not what the records give: {AGAIN}")
