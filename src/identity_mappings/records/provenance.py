"""Where a record comes from: everything that a reviewer would ask, and nothing that names a person or a host."""

import contextlib
import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import git
from .experiment import ARITHMETICS, Experiment
from .files import canonical, hash_file, sha256

PACKAGE = Path(__file__).parents[1]
LOCK = "requirements.lock"
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")
_first_hashes: dict[str, str] = {}  # of each source, when this process first saw it: what it runs


def sources(unknown: list[str] | None = None) -> dict[str, str]:
    """{file: sha256} of the project's modules that this process has imported.

    `unknown` takes what cannot be told of them: files that are gone, cannot be read or have changed since.
    """
    prefix = __name__.partition(".")[0]
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == prefix]
    paths = sorted(
        {os.path.relpath(file, PACKAGE) for module in modules if (file := getattr(module, "__file__", None))}
    )
    problems = []
    for path in paths:
        name = f"src/{PACKAGE.name}/{Path(path).as_posix()}"
        try:
            found = hash_file(PACKAGE / path)
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
            continue
        if _first_hashes.setdefault(name, found) != found:
            problems.append(f"{name}: has changed since it was imported")
    if unknown is not None:
        unknown += problems
    return dict(sorted(_first_hashes.items()))


@cache
def find_cpu_model() -> str:
    """As the system calls its CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def find_version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment(root: Path, unknown: list[str] | None = None) -> dict[str, Any]:
    """Versions of Python and of the packages that make the numbers, and the hash of the lock."""
    system = f"{platform.system()} {platform.machine()}"
    found: dict[str, Any] = {"python": platform.python_version(), "platform": system}
    found |= {package: find_version(package) for package in PACKAGES}
    found["lock_sha256"] = _hash(root / LOCK, LOCK, [] if unknown is None else unknown)
    return found


def _hash(path: Path, name: str, unknown: list[str]) -> str | None:
    try:
        return hash_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        unknown.append(f"{name}: {error.strerror}")
        return None


def code(root: Path) -> dict[str, Any]:
    """What made a record: "git", "source", "env" and, where something of them is unknown, "unknown": what and why."""
    unknown: list[str] = []
    found = {"git": git.describe(root), "source": sources(unknown), "env": environment(root, unknown)}
    unknown = found["git"].pop("unknown", []) + unknown
    return {**found, "unknown": unknown} if unknown else found


def describe_measurement(
    rule: str, command: str, root: Path, *, parents: dict[str, str], settings: dict[str, Any]
) -> dict[str, Any]:
    """The provenance of a measurement that trains no run of its own, without the hash of its data.

    Args:
        parents: {file or what else it is made from: sha256}.
        settings: what else it depends on.
    """
    origin = {"schema_version": 1, "rule": rule, "command": command, **code(root)}
    return {**origin, "settings": settings, "parents": parents}


def describe_run(
    experiment: Experiment,
    seed: int,
    *,
    root: Path,
    sessions: list[dict[str, Any]],
    hardware: dict[str, Any],
    settings: dict[str, Any],
    data: dict[str, Any],
    weights_sha256: str | None,
    log: Path | None,
) -> dict[str, Any]:
    """The provenance of a run, without its outputs' hashes, which `run.write_record` adds.

    Args:
        sessions: start, end and iterations of each process that worked on the run. "git" is of the last beginning, if
            that was a clean checkout: somebody may have gone on with the sources since.
        hardware, settings: what the trainer knows of its device and of determinism.
        data: counts of what was read.
        log: file that took the trainer's messages.
    """
    dataset, settings = experiment.parameters["dataset"], dict(settings)
    arithmetic = experiment.parameters["recipe"]["arithmetic"]
    made = code(root)
    unknown = made.pop("unknown", [])
    log_path = ascii(log.name)[1:-1] if log else ""
    log_hash = _hash(log, log_path, unknown) if log else None
    begun = {key: value for key, value in (sessions[-1].get("git") or {}).items() if key != "unknown"}
    if begun.get("dirty") is False and begun != made["git"]:  # what ran is what was there at the last beginning
        made["git"] = begun
        unknown.append("the checkout has changed since the last beginning, of which the commit is")
    command = f"identity-mappings train {experiment.name} --scale {experiment.scale} --seed {seed}"
    chosen = f" --arithmetic {arithmetic}" if arithmetic != ARITHMETICS[0] else ""
    leased = os.environ.get("IDENTITY_MAPPINGS_LEASE")
    return {
        "schema_version": 1,
        "rule": "train",
        "wildcards": {"experiment": experiment.name, "digest": experiment.digest, "seed": seed},
        "command": command + chosen,
        "started": sessions[0]["started"],
        "finished": sessions[-1]["finished"],
        "sessions": sessions,
        "log": {"path": log_path, "sha256": log_hash} if log_hash else None,
        "git": made["git"],
        "source": made["source"],
        "params": {"resolved": experiment.parameters, "sha256": sha256(canonical(experiment.parameters))},
        "data": {"name": dataset["name"], "dvc_md5": dataset["md5"], **data},
        "env": {**made["env"], **settings.pop("env", {})},
        "hardware": {**hardware, "gpus_requested": experiment.gpus, "leased": leased},
        "seed": {"seed": seed, **settings},
        "weights_sha256": weights_sha256,
        "parents": {},
        **({"unknown": unknown} if unknown else {}),
    }
