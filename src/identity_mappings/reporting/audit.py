"""`identity-mappings audit`: every number of the tables, walked back to the bytes that made it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..parameters import Project, load
from ..records import measurement, run
from ..records.files import canonical
from ..records.measurement import RESPONSES, RESPONSES_CSV, SIGNALS_CSV, get_signals_folder
from ..records.run import BadRecord
from . import benchmarks, detections, evidence, figures, page, readme
from .evidence import Gap, History
from .store import Records
from .tables import ScaleReport, make_report


def audit(scale: str, root: Path = Path()) -> int:
    """Walk every number of a scale's pages to its records, parameters, data, sources and environment.

    Prints what each record is made of; stops at the first gap. Returns the exit status: 1 if there is one.
    """
    project = load(root)
    try:
        report = make_report(project, scale)
        _check_pages(report)
        walked = _walk(project, scale, report)
        _check_pictures(report)
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


def _walk(project: Project, scale: str, report: ScaleReport) -> dict[Path, str]:
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


def _check_pages(report: ScaleReport) -> None:
    """The pages are those that the records give, and have not been edited."""
    records = report.records
    if records.bad:
        raise Gap(f"{records.bad[0]}: {evidence.RESTORE_RECORD}")
    cure = f"tables are out of date: run identity-mappings tables --scale {records.scale}"
    for name, content in report.pages.items():
        _check_file(records.results / name, content, cure)


def _check_pictures(report: ScaleReport) -> None:
    """Figures and report.html are those that the records give, and README.md is what the tables give."""
    records = report.records
    if b"](figures/" in report.pages["README.md"]:
        cure = f"figures are out of date: run identity-mappings figures --scale {records.scale}"
        for name, content in figures.draw_figures(records).items():
            if not name.endswith(".png"):  # which other libraries compress to other bytes
                _check_file(records.results / "figures" / name, content, cure)
    path = records.results / page.NAME
    if path.is_file():
        cure = f"the page is out of date: run identity-mappings report --scale {records.scale}"
        _check_file(path, page.render_report(records.project, records.scale), cure)
    if records.scale in records.project.reporting.side_by_side and not readme.is_current(records.project):
        raise Gap(f"{readme.NAME}: tables are out of date: run identity-mappings tables --scale {records.scale}")


def _check_file(path: Path, content: bytes, cure: str) -> None:
    if not path.is_file() or path.read_bytes() != content:
        raise Gap(f"{path}: {cure}")
