"""`identity-mappings audit`: every number of the tables, walked back to the bytes that made it."""

import hashlib
import json
import math
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..parameters import Project, load
from ..records import measurement, run
from ..records.experiment import identity
from ..records.files import canonical, sha256, sha256_of
from .cells import Tested
from .fingerprint import fingerprint
from .tables import ORIGIN, Report, report

LOCK = "requirements.lock"


class Gap(Exception):
    """Where the walk ends before its end, and what to do."""


class History:
    """Files as commits have them."""

    def __init__(self, root: Path):
        self.root = root
        self.hash_of = cache(self._hash_of)

    def _hash_of(self, commit: str, path: str) -> str | None:
        """sha256 of a file in a commit, or None if there is none."""
        done = subprocess.run(["git", "show", f"{commit}:{path}"], cwd=self.root, capture_output=True, check=False)
        return hashlib.sha256(done.stdout).hexdigest() if done.returncode == 0 else None

    def has(self, commit: str) -> bool:
        words = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
        return subprocess.run(words, cwd=self.root, capture_output=True, check=False).returncode == 0


def audit(scale: str, root: Path = Path()) -> int:
    """Walk every number of a scale's tables and claims to its records, parameters, data, sources and environment.

    Prints what each record stands on; stops at the first gap. Returns the exit status: 1 if there is one.
    """
    project = load(root)
    try:
        walked = _walk(project, scale, root)
    except Gap as gap:
        print(f"GAP: {gap}")
        return 1
    for path, (numbers, basis) in walked.items():
        print(f"{path.relative_to(root)}: {numbers} number(s); {basis}")
    total = sum(numbers for numbers, _ in walked.values())
    print(
        f"{total} number(s) on {len(walked)} record(s): each walked back to parameters, data, sources and environment"
    )
    return 0


def _walk(project: Project, scale: str, root: Path) -> dict[Path, tuple[int, str]]:
    made = report(project, scale)
    if made.bad:
        raise Gap(f"{made.bad[0]}: restore the record, or remove its folder and make it again")
    _check_pages(project, scale, root / project.scale(scale).results, made)
    history = History(root)
    numbers: Counter[Path] = Counter()
    bases: dict[Path, Callable[[], str]] = {}
    for cell in made.cells:
        if cell.measured is None:
            continue
        numbers.update(cell.paths)
        for tested in cell.tests:
            bases[tested.path] = partial(_basis_of_test, project, tested, history)
        if cell.cost_record:
            bases[cell.cost_record] = partial(_basis_of_measurement, cell.cost_record, history)
    for side in (side for judged in made.claims for pair in judged.pairs for side in pair.sides):
        numbers.update(side.paths)
        for record in side.records:
            tested = Tested(record, record.path, record.metrics)
            bases[record.path] = partial(_basis_of_test, project, tested, history)
        if side.measured:
            bases[side.measured] = partial(_basis_of_measurement, side.measured, history)
    return {path: (count, bases[path]()) for path, count in numbers.items()}


def _check_pages(project: Project, scale: str, results: Path, made: Report) -> None:
    """The pages are those that the records give, and have not been edited."""
    path, cure = results / ORIGIN, f"make it again: identity-mappings tables --scale {scale}"
    try:
        facts = json.loads(path.read_bytes())
        stated, files, shown = facts["fingerprint"], facts["files"], facts["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Gap(f"{path}: missing, or no origin of tables: {cure}") from None
    for name in made.pages:
        page = results / name
        if not page.is_file() or sha256_of(page) != files.get(name):
            raise Gap(f"{page}: missing, or edited after it was made: {cure}")
    if stated != fingerprint(project, scale, "tables"):
        raise Gap(f"{path}: made of other records, parameters or code than are here: {cure}")
    for cell, before in zip(made.cells, shown, strict=True):
        if json.loads(json.dumps(cell.as_json(project.root))) != before:
            raise Gap(f"{path}: {cell.table.table}, {cell.row.name}, {cell.column}: not what the records give: {cure}")
    for name, content in made.pages.items():
        if (results / name).read_bytes() != content:
            raise Gap(f"{results / name}: not what the records give: {cure}")


def _basis_of_measurement(path: Path, history: History) -> str:
    _, provenance = measurement.read(path.parent, path.name)
    return _check_code(path, provenance, history)


def _basis_of_test(project: Project, tested: Tested, history: History) -> str:
    _check_run(project, tested.record)
    basis = _check_code(tested.record.path, tested.record.provenance, history)
    if tested.path != tested.record.path:  # a test by another protocol, of the same weights
        if tested.numbers.get("weights_sha256") != tested.record.metrics["weights_sha256"]:
            raise Gap(f"{tested.path}: of other weights than the run's: test the run again")
        basis += "; tested by " + _check_code(tested.path, tested.numbers.get("made_by") or {}, history)
    return basis


def _check_run(project: Project, record: run.Record) -> None:
    """Of a record that was read already, so whose hashes, digest, seed and parameters agree with one another."""
    path, found, origin = record.path, record.metrics, record.provenance

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise Gap(f"{path.parent}: {what}: not a record to believe: remove the folder and train the run again")

    parameters = origin["params"]["resolved"]
    need(origin["params"].get("sha256") == sha256(canonical(parameters)), "the parameters are not those of their hash")
    dataset = identity(parameters["dataset"])
    pinned = identity(project.datasets[dataset["name"]].model_dump())
    need({key: value for key, value in dataset.items() if key != "name"} == pinned, "made of other data than is pinned")
    data = origin.get("data") or {}
    need(data.get("dvc_md5") == dataset["md5"], "its data have another hash than its parameters")
    for key in ("training_images", "test_images"):
        need(data.get(key) == dataset[key], f"{key} differ from the dataset's")
    need(origin.get("weights_sha256") == found["weights_sha256"], "two hashes of its weights")
    losses = found["first_losses"]
    need(bool(losses) and all(math.isfinite(loss) for loss in losses), "no first losses for verify to compare")
    sessions = origin.get("sessions") or [{}]
    ends = [session.get("to_iteration") for session in sessions]
    begins = [session.get("from_iteration") for session in sessions]
    need(begins[:1] == [0] and begins[1:] == ends[:-1], "its sessions do not follow one another")
    rows = [line.split(",") for line in (path.parent / run.CURVE).read_text().splitlines()]
    if found["status"] == "finished":
        test = found["test"]
        need(found["test_error"] == round(100 * test["wrong"] / test["images"], 6), "test_error is not wrong / images")
        need(ends[-1] == found["iterations"] == parameters["recipe"]["iterations"], "it did not run to its end")
        last = dict(zip(rows[0], rows[-1], strict=True))
        stated = {name: format(found[name], ".9g") for name in ("test_error", "training_error", "training_loss")}
        stated["iteration"] = str(found["iterations"])
        need({name: last[name] for name in stated} == stated, "the curve ends otherwise than the metrics")
        tests = [float(row[rows[0].index("test_error")]) for row in rows[1:] if row[rows[0].index("test_error")]]
        need(found["best"]["test_error"] == min(tests), "its best test is not the lowest of the curve")


def _check_code(path: Path, origin: dict[str, Any], history: History) -> str:
    """The commit has the very sources and lock that made it; returns what was found, in words."""

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise Gap(f"{path}: {what}")

    again = "make it again from a clean checkout"
    made, sources, environment = (origin.get(key) or {} for key in ("git", "source", "env"))
    commit = made.get("commit")
    need(bool(commit), f"made outside of any commit: {again}")
    need(made.get("dirty") is False, f"made with changes that are in no commit: {again}")
    need(history.has(commit), f"commit {commit} is not here: fetch the whole history (git fetch --unshallow)")
    need(bool(sources), f"names no sources: {again}")
    for file, digest in sources.items():
        need(history.hash_of(commit, file) == digest, f"{file} is another file in commit {commit[:12]}: {again}")
    need(bool(environment.get("torch") and environment.get("python")), f"names no environment: {again}")
    lock = environment.get("lock_sha256")
    need(lock == history.hash_of(commit, LOCK), f"{LOCK} is another file in commit {commit[:12]}: {again}")
    return f"commit {commit[:12]}, {len(sources)} sources, torch {environment['torch']}"
