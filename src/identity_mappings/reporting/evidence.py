"""Whether a record agrees with its own numbers, parameters, data, sources and environment; `audit` asks.

Each check returns what the record is made of, in words, or raises a `Gap`.
"""

import math
import re
from collections.abc import Callable, Collection
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..parameters import Project
from ..records import git, measurement, run
from ..records.experiment import Experiment, get_image_counts, identity
from ..records.files import canonical, parse_json, sha256
from ..records.measurement import RESPONSES, RESPONSES_CSV, SIGNALS_CSV
from .cost import count_all
from .detections import read_backbone

LOCK = "requirements.lock"
# Files of the package that every record of a kind is made with, if its commit has them. A file that is renamed gets
# another entry here: records of before are judged by the old name, new records by the new one.
DETECTION_SOURCES = (
    *("detection/networks.py", "detection/scores.py", "detection/trainer.py", "training/loop.py"),
    *("detection/evaluation.py", "detection/training.py"),  # as they were called before
)
RUN_SOURCES = (
    "data/sampling.py",
    "networks/residual.py",
    "training/loop.py",
    "training/trained_run.py",
    "training/trainer.py",
)
SIGNAL_SOURCES = ("evaluation/propagation.py", "training/signals.py", "networks/residual.py", "training/trainer.py")
TEST_SOURCES = ("evaluation/protocols.py", "networks/residual.py", "training/evaluate.py")
SINGLE_VIEW_SOURCES = ("evaluation/single_view.py", "networks/residual.py", "training/evaluate.py")
COST_SOURCES = ("networks/cost.py", "networks/residual.py")
AGAIN = "keep it, and make another from a clean checkout (--results takes another folder)"
RESTORE = "restore it (git checkout); if no copy of it is right, move its folder away and train the run again"
RESTORE_RECORD = "restore it (git checkout); if no copy of it is right, move it away and make it again"
OTHER = "of another run, or of other weights than the run's"
LEEWAY = 60  # seconds by which the clock on the wall may have been set


Need = Callable[[object, str], None]  # of a condition, and what is wrong where it does not hold


class Gap(Exception):
    """What is wrong with a record, and what to do."""


def require(subject: object, cure: str, condition: object, what: str) -> None:
    """Raise a `Gap` that names the subject where a condition does not hold; `cure` ends its message."""
    if not condition:
        raise Gap(f"{subject}: {what}{cure}")


class History:
    """Files as commits have them."""

    def __init__(self, root: Path):
        self.root = root
        self.objects: dict[str, bytes] = {}  # {object name: content}
        self.list_files = cache(self._list_files)
        self.explain_missing = cache(self._explain_missing)

    def _list_files(self, commit: str) -> dict[str, str]:
        """{path: object name} of a commit's files; reads the contents of all sources and of the lock at once."""
        try:
            files = git.list_files(self.root, commit)
            wanted = {name for path, name in files.items() if path.endswith(".py") or path == LOCK}
            self.objects |= git.read_objects(self.root, wanted - self.objects.keys())
        except git.GitError:
            return {}
        return files

    def read_content(self, commit: str, path: str) -> bytes | None:
        """The bytes of a source or of the lock in a commit, or None if there is none."""
        return self.objects.get(self.list_files(commit).get(path, ""))

    def has_file(self, commit: str, path: str, digest: str | None) -> bool:
        """Whether a commit has a file with this sha256, as it is or as it was checked out with CR LF at line ends."""
        content = self.read_content(commit, path)
        if content is None:
            return digest is None
        return digest in (sha256(content), sha256(content.replace(b"\n", b"\r\n")))

    def read_version(self, commit: str, package: str) -> str | None:
        """The version of a package that the lock of a commit pins."""
        found = re.search(rf"^{package}==(\S+)", (self.read_content(commit, LOCK) or b"").decode(), re.MULTILINE)
        return found and found[1]

    def _explain_missing(self, commit: str) -> str | None:
        """Why a commit cannot be looked up here, and what to do; None if it can."""
        try:
            shallow = git.run_git(self.root, "rev-parse", "--is-shallow-repository").strip() == b"true"
        except git.GitError as reason:
            return f"commit {commit} cannot be looked up: {reason}"
        try:
            git.run_git(self.root, "cat-file", "-e", f"{commit}^{{commit}}")
        except git.GitError:
            cure = " (git fetch --all --tags), or ask whoever made the record to push it"
            cure = ": git fetch --unshallow" if shallow else cure
            return f"this clone lacks commit {commit}: fetch the whole history{cure}"
        return None


def check_test(project: Project, record: run.Record, path: Path, history: History) -> str:
    """Check a run, and that a test after its training is of the same weights."""
    made_of = check_run(project, record, history)
    protocol = path.stem.removeprefix("evaluation-")
    found = run.read_evaluation(record, protocol) or {}
    same = found["weights_sha256"] == record.metrics["weights_sha256"]
    require(path, "", same, "of other weights than the run's: test the run again")
    needed = SINGLE_VIEW_SOURCES if protocol in run.CIFAR_PROTOCOLS else TEST_SOURCES
    return f"{made_of}; tested by {check_code(path, found.get('made_by') or {}, history, needed)}"


def check_imported_test(path: Path, history: History) -> str:
    return check_code(path, run.read_imported_test(path)["made_by"], history, TEST_SOURCES)


def check_run(project: Project, record: run.Record, history: History) -> str:
    """Check a run; reading its record compared hashes, digest, seed and parameters with one another already."""
    path, found, origin = record.path, record.metrics, record.provenance
    need = partial(require, path.parent, f": not a record to believe: {RESTORE}")
    parameters = origin["params"]["resolved"]
    _check_parameters(need, project, origin["params"], (origin.get("data") or {}).get("dvc_md5"))
    counts = get_image_counts(parameters)
    for key, count in counts.items():
        need(origin["data"].get(key) == count, f"{key} differ from the dataset's")
    named = {key: found[key] for key in ("experiment", "digest", "seed")}
    need(origin.get("wildcards") == named, "experiment, digest or seed are not those of its provenance")
    need(origin.get("weights_sha256") == found["weights_sha256"], "two hashes of its weights")
    recipe = parameters["recipe"]
    same = all(found[key] == recipe[key] for key in ("arithmetic", "cpu_threads"))
    need(same, "arithmetic or threads are not the recipe's")
    folder = path.parents[1 if found["status"] in run.FINAL else 2]
    need(folder.name == f"{found['experiment']}-{found['digest']}", "its folder is not named EXPERIMENT-DIGEST")
    losses = found["first_losses"]
    complete = len(losses) == min(run.FIRST_LOSSES, found["iterations"]) and all(map(math.isfinite, losses))
    need(complete, "not the first losses, which verify compares")
    need((origin.get("seed") or {}).get("world_size", 1) >= 1, "trained by no process")
    gpu = (origin.get("hardware") or {}).get("gpu")
    need(found["device"] == (gpu["model"] if gpu else "cpu"), "made on another device")
    _check_sessions(need, path.parent, found, origin.get("sessions") or [], history)
    _check_curve(need, path.parent / run.CURVE, found, recipe)
    for test in filter(None, (found["test"], found["best"])):
        need(test["images"] == counts["test_images"], "a test of other images than the dataset's")
        precision = test.get("mean_average_precision")
        error = 100 * test["wrong"] / test["images"] if precision is None else 100 - precision
        need(test["test_error"] == round(error, 6), "test_error is not wrong / images, or 100 less its mAP")
    if "backbone" not in parameters:
        return check_code(path, origin, history, RUN_SOURCES)
    backbone = check_run(project, read_backbone(project, record), history)
    return f"{check_code(path, origin, history, DETECTION_SOURCES)}; on a backbone of {backbone}"


def _check_sessions(
    need: Need, folder: Path, found: dict[str, Any], sessions: list[dict[str, Any]], history: History
) -> None:
    ends = [session.get("to_iteration") for session in sessions]
    begins = [session.get("from_iteration") for session in sessions]
    need(begins[:1] == [0] and begins[1:] == ends[:-1], "its sessions do not follow one another")
    need(ends[-1] == found["iterations"], "its sessions did not run to its end")
    for session in sessions:
        begin, end = (datetime.fromisoformat(session[key]) for key in ("started", "finished"))
        seconds = max(session["seconds"], session.get("device_seconds", 0))
        need(seconds <= (end - begin).total_seconds() + LEEWAY, "a session took longer than from its start to its end")
        if made := session.get("git"):  # older ones do not say
            of_session = partial(require, f"{folder}: session from iteration {session['from_iteration']}", "")
            of_session(not made.get("dirty"), f"trained from uncommitted code: {AGAIN}")
            reason = history.explain_missing(made["commit"]) if made.get("commit") else None
            of_session(not reason, reason or "")
            need(made.get("commit") or made.get("unknown"), "a session that names no commit")


def _check_curve(need: Need, path: Path, found: dict[str, Any], recipe: dict[str, Any]) -> None:
    """The numbers of the metrics are those of the curve, and the run ended as its status says."""
    header, *lines = [line.split(",") for line in path.read_text().splitlines()]
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    whole, done, status = recipe["iterations"], found["iterations"], found["status"]
    need(found["of_iterations"] == whole, "its length is not the recipe's")
    need(status != "finished" or done == whole, "it did not run to its end")

    def every(step: int) -> list[int]:
        return [*range(step, done + 1, step), *([done] if status == "finished" and done % step else [])]

    logged = [int(row["iteration"]) for row in rows]
    need(logged == every(recipe["log_every"]), "its curve has other rows than the recipe's")
    tests = {int(row["iteration"]): float(row["test_error"]) for row in rows if row["test_error"]}
    need(list(tests) == every(recipe["evaluate_every"]), "its curve has other tests than the recipe's")
    if found["best"] is not None:
        lowest = min(tests.values(), default=None)
        need(found["best"]["test_error"] == lowest, "its best test is not the lowest of the curve")
    if status == "diverged":
        stopped = found["diverged_at"] == done < whole and found["weights_sha256"] is None
        need(stopped, "it did not diverge where it says")
    elif status == "finished":
        need(found["test_error"] == found["test"]["test_error"], "test_error is not that of its last test")
        last = {name: format(found[name], ".9g") for name in ("test_error", "training_error", "training_loss")}
        last["iteration"] = str(done)
        need({name: rows[-1][name] for name in last} == last, "the curve ends otherwise than the metrics")
    else:
        need(done < whole and found["diverged_at"] is None, "its status is unfinished, but it has finished or diverged")


def check_responses(project: Project, record: run.Record, history: History) -> str:
    """Check the layer responses of a run, finished or not."""
    path, made = record.path.parent / RESPONSES / RESPONSES_CSV, record.metrics
    _, origin = measurement.read_required(path.parent, path.name)
    need, settings = _check_settings(project, path, origin)
    need(all(settings[key] == made[key] for key in ("digest", "seed")), OTHER)
    if made["status"] == "finished":
        parents = {"weights": made["weights_sha256"], run.METRICS: sha256(record.path.read_bytes())}
        need(origin.get("parents") == parents and settings.get("iteration") == made["iterations"], OTHER)
    return check_code(path, origin, history, SIGNAL_SOURCES)


def check_signals(project: Project, scale: str, folder: Path, experiment: Experiment, history: History) -> str:
    """Check a record of signals of an experiment, whose digest was compared when it was read."""
    _, origin = measurement.read_required(folder, SIGNALS_CSV)
    need, settings = _check_settings(project, folder / SIGNALS_CSV, origin)
    need(identity(settings["params"]["resolved"]) == identity(experiment.parameters), "of other parameters")
    iterations = project.scale(scale).signal_iterations
    need(settings.get("iterations") == iterations and settings.get("seed") == 0, "of another seed or length")
    return check_code(folder / SIGNALS_CSV, origin, history, SIGNAL_SOURCES)


def _check_settings(project: Project, path: Path, origin: dict[str, Any]) -> tuple[Need, dict[str, Any]]:
    """Check parameters and data of a measurement; returns a check of further facts, and the settings."""
    need = partial(require, path, ": restore it (git checkout), or move its folder away and measure it again")
    settings = origin["settings"]
    _check_parameters(need, project, settings.get("params") or {}, (settings.get("data") or {}).get("md5"))
    return need, settings


def check_cost(project: Project, scale: str, folder: Path, history: History) -> str:
    """Check the cost record: every network is counted again."""
    path = folder / measurement.COST_JSON
    content, origin = measurement.read_required(folder, path.name)
    entries = parse_json(content)["networks"]
    for digest, counted in count_all(project, scale).items():
        entry = entries.get(digest, counted)
        if any(entry[key] != value for key, value in counted.items()):
            raise Gap(f"{path}: {counted['experiment']}: not what is counted now: count it again")
    return check_code(path, origin, history, COST_SOURCES)


def _check_parameters(need: Need, project: Project, params: dict[str, Any], data_hash: str | None) -> None:
    """Check that the parameters are those of their hash, and the data those that are pinned."""
    parameters = params.get("resolved") or {}
    need(params.get("sha256") == sha256(canonical(parameters)), "the parameters are not those of their hash")
    dataset = identity(parameters["dataset"])
    need(dataset == identity(project.resolve_dataset(dataset["name"])), "made of other data than is pinned")
    need(data_hash == dataset["md5"], "its data have another hash than its parameters")


def check_code(path: Path, origin: dict[str, Any], history: History, needed: Collection[str] = ()) -> str:
    """Check that a commit has the very sources and lock that made a record."""
    need = partial(require, path, "")
    sources, environment, unknown = (origin.get(key) or {} for key in ("source", "env", "unknown"))
    commit = _find_commit(path, origin, history)
    need(sources, f"names no sources: {AGAIN}")
    lock = environment.get("lock_sha256")
    for file, digest in sources.items():
        need(history.has_file(commit, file, digest), f"{file} is another file in commit {commit[:12]}: {AGAIN}")
    names = {f"src/identity_mappings/{name}" for name in needed}
    for file in sorted(names & history.list_files(commit).keys()):
        need(file in sources, f"{file} is not among its sources: {AGAIN}")
    need(environment.get("torch") and environment.get("python"), f"names no environment: {AGAIN}")
    if lock or not any(reason.startswith(f"{LOCK}: ") for reason in unknown):
        need(history.has_file(commit, LOCK, lock), f"{LOCK} is another file in commit {commit[:12]}: {AGAIN}")
    torch, pinned = environment["torch"].partition("+")[0], history.read_version(commit, "torch")
    need(torch == pinned, f"made with torch {torch}, not {pinned} as {LOCK} has it: make another with that")
    told = f"; could not be told when it was made: {', '.join(unknown)}" if unknown else ""
    return f"commit {commit[:12]}, {len(sources)} sources, torch {environment['torch']}{told}"


def _find_commit(path: Path, origin: dict[str, Any], history: History) -> str:
    """The commit that a record was made of."""
    unknown, made = origin.get("unknown") or (), origin.get("git") or {}
    commit, need = made.get("commit") or "", partial(require, path, "")
    need(not made.get("dirty"), f"made with uncommitted changes: {AGAIN}")
    told = commit and (unknown or made.get("dirty") is False)
    need(told, f"made outside of any commit ({', '.join(unknown)}): {AGAIN}")
    reason = history.explain_missing(commit)
    need(not reason, reason or "")
    return commit
