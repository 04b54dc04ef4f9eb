"""The record of a run: metrics.json, curve.csv and provenance.json in one folder."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .experiment import Experiment, identity
from .files import json_bytes, parse_json, sha256, write_atomically

FORMAT = 1
FIRST_LOSSES = 50  # that a record keeps in full precision, so that `verify` can repeat a run's beginning
METRICS, CURVE, PROVENANCE, PARTIAL = "metrics.json", "curve.csv", "provenance.json", "partial"
FINAL = ("finished", "diverged")
MODELS = "models"  # exported weights, which DVC tracks (models.dvc): `dvc pull models` brings them
WEIGHTS = "weights.pt"  # with the checkpoints: they stay where a run was trained
COPY = "record"  # there, too: a copy of the record
_ERRORS = {"test_error": "wrong", "top_5_error": "wrong_top_5"}
CIFAR_PROTOCOLS = ("single-view", "single-view-recomputed")
DETECTION_PROTOCOLS = ("voc-11-point", "coco")  # a detection is tested in its training, and by no other
IMPORTED, IMPORTED_KIND = "imported", "imported weights, other recipe"  # trained elsewhere, tested here
IMAGENET_PROTOCOLS = ("centre-224", "centre-320", "10-crop", "multi-scale")  # the first: of the tests in the training
VGG_PROTOCOLS = ("centre-224", "10-crop")  # its linear layers take images of one size


def choose_protocols(name: str, family: str | None, wanted: Sequence[str]) -> list[str]:
    """The wanted protocols of a network's tests; none are wanted: on CIFAR the first, on ImageNet all that fit.

    Raises:
        UserError: one does not fit the network's family.
    """
    known = {"imagenet": IMAGENET_PROTOCOLS, "vgg": VGG_PROTOCOLS}.get(family or "cifar", CIFAR_PROTOCOLS)
    for protocol in wanted:
        if protocol not in known:
            raise UserError(f"{name} is not tested by {protocol}: its protocols are {', '.join(known)}")
    return list(wanted or (known[:1] if known is CIFAR_PROTOCOLS else known))


def get_folder(results: Path, experiment: Experiment, seed: int) -> Path:
    return results / "runs" / experiment.folder / f"seed{seed}"


def get_checkpoint_folder(results: Path, experiment: Experiment, seed: int) -> Path:
    return results / "checkpoints" / experiment.folder / f"seed{seed}"


def find_weights(results: Path, experiment: Experiment, seed: int, root: Path = Path()) -> Path | None:
    """The file of a run's trained weights: where it was trained, or exported; None if they are not here."""
    exported = root / MODELS / experiment.folder / f"seed{seed}" / "model.safetensors"
    kept = get_checkpoint_folder(results, experiment, seed) / WEIGHTS
    return next((path for path in (kept, exported) if path.is_file()), None)


def get_evaluation_path(folder: Path, protocol: str) -> Path:
    """The file of a run's test by a protocol."""
    return folder / f"evaluation-{protocol}.json"


def get_imported_path(results: Path, name: str, protocol: str) -> Path:
    """The file of a test of imported weights."""
    return get_evaluation_path(results / IMPORTED / name, protocol)


def write_record(folder: Path, metrics: dict[str, Any], curve: bytes, provenance: dict[str, Any]) -> None:
    """Write a record. metrics.json comes last: where it is, the rest is.

    The record of an unfinished run goes to the folder's `partial/`, where no table and no rule looks for it.
    """
    final = metrics["status"] in FINAL
    target = folder if final else folder / PARTIAL
    content = json_bytes(metrics)
    outputs = {METRICS: sha256(content), CURVE: sha256(curve)}
    write_atomically(target / CURVE, curve)
    write_atomically(target / PROVENANCE, json_bytes({**provenance, "outputs": outputs}))
    write_atomically(target / METRICS, content)
    if final:
        for name in (METRICS, CURVE, PROVENANCE):
            (folder / PARTIAL / name).unlink(missing_ok=True)
        shutil.rmtree(folder / PARTIAL / "responses", ignore_errors=True)  # of the unfinished network
        if (folder / PARTIAL).is_dir() and not any((folder / PARTIAL).iterdir()):
            (folder / PARTIAL).rmdir()


def copy_record(folder: Path, checkpoints: Path) -> None:
    """Copy a finished record beside the weights.

    A scheduler may call a job failed that ended just behind its training; then Snakemake removes its outputs.
    """
    _copy(folder, checkpoints / COPY)


def restore_record(folder: Path, checkpoints: Path, experiment: Experiment, seed: int) -> bool:
    """Put a finished record that is gone back from its copy; False if there is none, or none to be believed."""
    try:
        found = read_record(checkpoints / COPY, experiment, seed)
    except BadRecord:
        return False
    if found:
        _copy(checkpoints / COPY, folder)
    return found is not None


def _copy(source: Path, target: Path) -> None:
    for name in (CURVE, PROVENANCE, METRICS):
        write_atomically(target / name, (source / name).read_bytes())


@dataclass(frozen=True)
class Record:
    """A record that was read and found to be what its place says."""

    path: Path
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def test_error(self) -> float | None:
        """At the last iteration, in %; None if the run diverged."""
        return self.metrics["test_error"]


class BadRecord(UserError):
    """Why a record is not to be believed."""


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Around work with a record: what is wrong with its file, or with what is in it, becomes BadRecord."""
    try:
        yield
    except OSError as error:
        raise BadRecord(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise BadRecord(f"{path}: not {kind} ({type(error).__name__}: {error})") from None


def read_record(folder: Path, experiment: Experiment, seed: int, partial: bool = False) -> Record | None:
    """The record of a run, or None if there is none.

    Args:
        partial: whether an unfinished one will do.

    Raises:
        BadRecord: it is there, but is not a finished record of this experiment and seed, made with these parameters,
            with the bytes that its own provenance states.
    """
    path = folder / METRICS
    try:
        content, origin, curve = ((folder / name).read_bytes() for name in (METRICS, PROVENANCE, CURVE))
    except (FileNotFoundError, NotADirectoryError) as error:
        name = Path(error.filename).name
        if name == METRICS:
            return None
        raise BadRecord(f"{folder}: {name} is missing") from None
    except OSError as error:
        raise BadRecord(f"{folder}: {Path(error.filename or path).name}: {error.strerror}") from None
    with reading(folder, "a record of a run"):
        metrics, provenance = parse_json(content), parse_json(origin)
        status, no_error = metrics["status"], metrics["test_error"] is None
        facts = {
            "format": (metrics["format"], FORMAT),
            "experiment's digest": (metrics["digest"], experiment.digest),
            "seed": (metrics["seed"], seed),
            "seed of the provenance": (provenance["seed"]["seed"], seed),
            "parameters": (identity(provenance["params"]["resolved"]), identity(experiment.parameters)),
            "status": (status in FINAL or partial, True),
            "hash of metrics.json": (sha256(content), provenance["outputs"][METRICS]),
            "hash of curve.csv": (sha256(curve), provenance["outputs"][CURVE]),
            "test error of a diverged run": (no_error, status == "diverged" or (status not in FINAL and no_error)),
        }
        _compare(folder, facts)
    return Record(path, metrics, provenance)


def _compare(path: Path, facts: dict[str, tuple[Any, Any]]) -> None:
    """Raise BadRecord where what was found is not what is expected."""
    for name, (found, expected) in facts.items():
        if found != expected:
            what = "" if isinstance(found, (dict, bool)) else f": {found}, expected {expected}"
            raise BadRecord(f"{path}: {name} does not match{what}")


def _errors(found: dict[str, Any], names: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """The stated errors of a test, beside what its counts give."""
    return {name: (found[name], round(100 * found[_ERRORS[name]] / found["images"], 6)) for name in names}


def read_evaluation(record: Record, protocol: str) -> dict[str, Any] | None:
    """A run's test by a protocol, or None if there is none.

    Raises:
        BadRecord: it is there, but is not of this very record, or its numbers contradict each other.
    """
    path = get_evaluation_path(record.path.parent, protocol)
    if not path.exists():
        return None
    with reading(path, "a record of a test"):
        found = parse_json(path.read_bytes())
        errors = [name for name in _ERRORS if name != "top_5_error" or protocol not in CIFAR_PROTOCOLS]
        if record.test_error is None:
            numbers = {name: (found[name], None) for name in errors}
        else:
            numbers = {"images": (found["images"], record.metrics["test"]["images"]), **_errors(found, errors)}
        facts = {
            "format": (found["format"], FORMAT),
            "experiment's digest": (found["digest"], record.metrics["digest"]),
            "seed": (found["seed"], record.metrics["seed"]),
            "protocol": (found["protocol"], protocol),
            "hash of metrics.json": (found["parents"][METRICS], sha256(record.path.read_bytes())),
            **numbers,
        }
        _compare(path, facts)
    return found


def read_imported_test(path: Path) -> dict[str, Any]:
    """The record of a test of imported weights.

    Raises:
        BadRecord: it is none, or its numbers contradict each other.
    """
    with reading(path, "a record of imported weights"):
        found = parse_json(path.read_bytes())
        facts = {
            "format": (found["format"], FORMAT),
            "kind": (found["kind"], IMPORTED_KIND),
            "place": (path.relative_to(path.parents[1]), get_evaluation_path(Path(found["name"]), found["protocol"])),
            **_errors(found, _ERRORS),
        }
        _ = found["source"], found["network"]["depth"], found["weights_sha256"], found["arithmetic"]
        _compare(path, facts)
    return found
