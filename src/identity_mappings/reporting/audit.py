"""`identity-mappings audit`: every number of the tables, walked back to the bytes that made it."""

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..parameters import Project, load
from ..records import measurement, run
from ..records.files import canonical, hash_file, parse_json
from ..records.measurement import RESPONSES, RESPONSES_CSV, SIGNALS_CSV, get_signals_folder
from ..records.run import BadRecord
from . import benchmarks, detections, evidence, page, readme
from .cells import Records
from .evidence import Gap, History
from .fingerprint import fingerprint, is_current
from .tables import ORIGIN, Report, make_report


def audit(scale: str, root: Path = Path()) -> int:
    """Walk every number of a scale's pages to its records, parameters, data, sources and environment.

    Prints what each record is made of; stops at the first gap. Returns the exit status: 1 if there is one.
    """
    project = load(root)
    try:
        report = make_report(project, scale)
        _check_pages(project, scale, report)
        walked = _walk(project, scale, report)
        _check_pictures(project, scale, report)
        benchmarks.check_pages(root, root / project.scale("paper").results)
    except Gap as gap:
        print(f"GAP: {gap}")
        return 1
    used = Counter(path for cell in report.cells if cell.measured is not None for path in cell.paths)
    used.update(path for claim in report.claims for pair in claim.pairs for side in pair.sides for path in side.paths)
    for path, made_of in walked.items():
        print(f"{path.relative_to(root)}: used in {used[path]} cell(s) and comparison(s); {made_of}")
    print(f"{len(walked)} record(s): each walked back to parameters, data, sources and environment")
    return 0


def _walk(project: Project, scale: str, report: Report) -> dict[Path, str]:
    """What each record that a page shows is made of, in words."""
    records, history, walked = report.records, History(project.root), {}
    results = records.results
    _check_each_once(records)

    def walk(path: Path, check: Callable[..., str], *arguments: Any) -> None:
        try:
            walked[path] = check(*arguments)
        except BadRecord as bad:
            raise Gap(f"{bad}: {evidence.RESTORE_RECORD}") from None
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
            what = f"not a record ({type(error).__name__}: {error})"
            raise Gap(f"{path}: {what}: {evidence.RESTORE_RECORD}") from None

    for path, record in sorted(records.runs.items()):
        walk(path, evidence.check_run, project, record, history)
        for test in sorted(path.parent.glob("evaluation-*.json")):  # shown or not
            walk(test, evidence.check_test, project, record, test, history)
        if (path.parent / RESPONSES / RESPONSES_CSV).is_file():
            walk(path.parent / RESPONSES / RESPONSES_CSV, evidence.check_responses, project, record, history)
    for experiment in project.list_for_signals(scale):  # claims and the figure
        folder = get_signals_folder(results, experiment, records.settings.signal_iterations)
        if (folder / SIGNALS_CSV).is_file():
            walk(folder / SIGNALS_CSV, evidence.check_signals, project, scale, folder, experiment, history)
    if records.costs:
        folder = results / measurement.COST
        walk(folder / measurement.COST_JSON, evidence.check_cost, project, scale, folder, history)
    for path in sorted((results / run.IMPORTED).glob("*/evaluation-*.json")):
        walk(path, evidence.check_imported_test, path, history)
    for path in benchmarks.list_records(results):
        walk(path, benchmarks.check_record, path, history)
    for folder in detections.imported_folders(results):
        record = detections.read_imported_detection(folder)
        walk(record.path, evidence.check_code, record.path, record.provenance, history)
    return walked


def _check_each_once(records: Records) -> None:
    """No run of an experiment is there a second time, under another seed."""
    seen: dict[Any, Path] = {}
    for path, record in sorted(records.runs.items()):
        found = record.metrics
        for key in ("first_losses", "weights_sha256"):
            value = (found["experiment"], found["digest"], key, canonical(found.get(key)))
            if found.get(key) and seen.setdefault(value, path) != path:
                raise Gap(f"{path}: the same run as {seen[value]}: move it away and train its own seed")


def _check_pages(project: Project, scale: str, report: Report) -> None:
    """The pages are those that the records give, and have not been edited."""
    if report.records.bad:
        raise Gap(f"{report.records.bad[0]}: {evidence.RESTORE_RECORD}")
    results = report.records.results
    path, cure = results / ORIGIN, f": make it again: identity-mappings tables --scale {scale}"
    try:
        facts = parse_json(path.read_bytes())
        stated, files, shown = facts["fingerprint"], dict(facts["files"]), list(facts["cells"])
    except (OSError, ValueError, KeyError, TypeError):
        raise Gap(f"{path}: missing, or no origin of tables{cure}") from None
    for name in report.pages:
        whole = (results / name).is_file() and hash_file(results / name) == files.get(name)
        evidence.require(results / name, cure, whole, "missing, or edited after it was made")
    need = partial(evidence.require, path, cure)
    need(stated == fingerprint(project, scale, "tables"), "made of other records, parameters or code than are here")
    need(len(report.cells) == len(shown), f"has {len(shown)} cells, not {len(report.cells)}")
    for cell, before in zip(report.cells, shown, strict=True):
        same = json.loads(json.dumps(cell.as_json(project.root))) == before
        need(same, f"{cell.table.table}, {cell.row.name}, {cell.column}: not what the records give")
    for name, content in report.pages.items():
        same = (results / name).read_bytes() == content
        evidence.require(results / name, cure, same, "not what the records give")


def _check_pictures(project: Project, scale: str, report: Report) -> None:
    """The figures and report.html are those that the records give."""
    results = report.records.results
    origin = results / "figures" / "figures.json"
    if b"](figures/" in report.pages["README.md"] and not is_current(project, scale, origin):
        raise Gap(f"{origin}: the figures are not those of these records: identity-mappings figures --scale {scale}")
    path = results / page.NAME
    if path.is_file() and path.read_bytes() != page.render_report(report):
        raise Gap(f"{path}: not what the records give: make it again: identity-mappings report --scale {scale}")
    if scale in readme.SCALES and not readme.is_current(project):
        raise Gap(f"{readme.NAME}: not what the tables give: make it again: identity-mappings tables --scale {scale}")
