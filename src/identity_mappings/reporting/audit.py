"""`identity-mappings audit`: every number of the tables, walked back to the bytes that made it."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..parameters import Project, load
from ..records import cost, imported
from ..records.files import canonical, parse_json, sha256_of
from ..records.propagation import RESPONSES, RESPONSES_CSV, SIGNALS_CSV, signals_of
from ..records.run import BadRecord
from . import basis, detections, page, readme
from .basis import Gap, History
from .cells import Records
from .fingerprint import fingerprint, is_current
from .tables import ORIGIN, Report, report


def audit(scale: str, root: Path = Path()) -> int:
    """Walk every number of a scale's pages to its records, parameters, data, sources and environment.

    Prints what each record stands on; stops at the first gap. Returns the exit status: 1 if there is one.
    """
    project = load(root)
    try:
        walked, used = _walk(project, scale, root)
    except Gap as gap:
        print(f"GAP: {gap}")
        return 1
    for path, found in walked.items():
        print(f"{path.relative_to(root)}: used in {used[path]} cell(s) and comparison(s); {found}")
    print(f"{len(walked)} record(s): each walked back to parameters, data, sources and environment")
    return 0


def _walk(project: Project, scale: str, root: Path) -> tuple[dict[Path, str], Counter[Path]]:
    """What each record that a page tells of stands on, and in how many cells and comparisons it is used."""
    made = report(project, scale)
    if made.bad:
        raise Gap(f"{made.bad[0]}: {basis.RESTORE_RECORD}")
    results = root / project.scale(scale).results
    _check_pages(project, scale, results, made)
    used = Counter(path for cell in made.cells if cell.measured is not None for path in cell.paths)
    used.update(path for one in made.claims for pair in one.pairs for side in pair.sides for path in side.paths)
    history, walked, records = History(root), {}, made.records
    _check_each_once(records)

    def walk(path: Path, check: Callable[..., str], *of: Any) -> None:
        try:
            walked[path] = check(*of, history)
        except BadRecord as bad:
            raise Gap(f"{bad}: {basis.RESTORE_RECORD}") from None
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
            raise Gap(f"{path}: not a record ({type(error).__name__}: {error}): {basis.RESTORE_RECORD}") from None

    for path, record in sorted(records.runs.items()):
        walk(path, basis.of_run, project, record)
        for test in sorted(path.parent.glob("evaluation-*.json")):  # shown or not
            walk(test, basis.of_test, project, record, test)
        if (path.parent / RESPONSES / RESPONSES_CSV).is_file():
            walk(path.parent / RESPONSES / RESPONSES_CSV, basis.of_responses, project, record)
    for experiment in project.propagated(scale):  # claims and the figure
        folder = signals_of(results, experiment, project.scale(scale).signal_iterations)
        if (folder / SIGNALS_CSV).is_file():
            walk(folder / SIGNALS_CSV, basis.of_signals, project, scale, folder, experiment)
    if records.costs():
        walk(results / cost.FOLDER / cost.NAME, basis.of_cost, project, scale, results / cost.FOLDER)
    for path in sorted((results / imported.FOLDER).glob("*/evaluation-*.json")):
        walk(
            path,
            lambda path, history: basis.of_code(path, imported.read(path)["made_by"], history, basis.OF_TEST),
            path,
        )
    for folder in detections.imported_folders(results):
        record = detections.read_imported(folder)
        walk(record.path, basis.of_code, record.path, record.provenance)
    if scale in readme.SCALES and not readme.is_current(project):
        raise Gap(f"{readme.NAME}: not what the tables give: make it again: identity-mappings tables --scale {scale}")
    origin = results / "figures" / "figures.json"
    if b"](figures/" in made.pages["README.md"] and not is_current(project, scale, origin):
        raise Gap(f"{origin}: the figures are not those of these records: identity-mappings figures --scale {scale}")
    if (results / page.NAME).is_file() and (results / page.NAME).read_bytes() != page.render(project, scale, made):
        cure = f"make it again: identity-mappings report --scale {scale}"
        raise Gap(f"{results / page.NAME}: not what the records give: {cure}")
    return walked, used


def _check_each_once(records: Records) -> None:
    """No run of an experiment is there a second time, under another seed."""
    seen: dict[Any, Path] = {}
    for path, record in sorted(records.runs.items()):
        found = record.metrics
        for key in ("first_losses", "weights_sha256"):
            value = (found["experiment"], found["digest"], key, canonical(found.get(key)))
            if found.get(key) and seen.setdefault(value, path) != path:
                raise Gap(f"{path}: the same run as {seen[value]}: move it away and train its own seed")


def _check_pages(project: Project, scale: str, results: Path, made: Report) -> None:
    """The pages are those that the records give, and have not been edited."""
    path, cure = results / ORIGIN, f"make it again: identity-mappings tables --scale {scale}"
    try:
        facts = parse_json(path.read_bytes())
        stated, files, shown = facts["fingerprint"], dict(facts["files"]), list(facts["cells"])
    except (OSError, ValueError, KeyError, TypeError):
        raise Gap(f"{path}: missing, or no origin of tables: {cure}") from None
    for name in made.pages:
        page = results / name
        if not page.is_file() or sha256_of(page) != files.get(name):
            raise Gap(f"{page}: missing, or edited after it was made: {cure}")
    if stated != fingerprint(project, scale, "tables"):
        raise Gap(f"{path}: made of other records, parameters or code than are here: {cure}")
    cells = [json.loads(json.dumps(cell.as_json(project.root))) for cell in made.cells]
    if len(cells) != len(shown):
        raise Gap(f"{path}: has {len(shown)} cells, not {len(cells)}: {cure}")
    for cell, mine, before in zip(made.cells, cells, shown, strict=True):
        if mine != before:
            raise Gap(f"{path}: {cell.table.table}, {cell.row.name}, {cell.column}: not what the records give: {cure}")
    for name, content in made.pages.items():
        if (results / name).read_bytes() != content:
            raise Gap(f"{results / name}: not what the records give: {cure}")
