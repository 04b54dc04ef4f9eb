"""Checkpoints and weights: written in one step, read only if every byte is right, set aside if not."""

import contextlib
import fcntl
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import UserError
from ..networks.families import NORMALIZATION
from ..records import run
from ..records.experiment import Experiment
from ..records.files import remove_partial_files, write_atomically

KEPT = 2  # the last, and the one before it in case the last is damaged
_NAME = re.compile(r"checkpoint-(\d+)-([0-9a-f]{16})\.pt")
_WRITTEN = re.compile(_NAME.pattern + r"|weights\.pt|moving-statistics\.pt")


def _listed(folder: Path) -> list[tuple[int, str, Path]]:
    """(iteration, hash, path) of the checkpoints in a folder, the newest first."""
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("checkpoint-*.pt"))
    return sorted(((int(m[1]), m[2], path) for m, path in matches if m), reverse=True)


def to_bytes(state: dict[str, Any]) -> bytes:
    """A file of torch.save, made in memory: on a full disk torch.save itself says nothing of use."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def write_checkpoint(folder: Path, iteration: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint, whose name carries the hash of its bytes, and remove all but the last ones."""
    content = to_bytes(state)
    path = folder / f"checkpoint-{iteration:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    write_atomically(path, content)
    for *_, old in [entry for entry in _listed(folder) if entry[2] != path][KEPT - 1 :]:
        old.unlink(missing_ok=True)  # several processes of a run may save what a lost one has left
    return path


def load_checkpoint(folder: Path, device: torch.device, run: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None. A damaged one is renamed to *.damaged with a message.

    Args:
        run: what the checkpoint's "run" must be: one of another run is set aside too.

    Raises:
        OSError: one cannot be read, or not be set aside.
    """
    for _, digest, path in _listed(folder):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another process of the run has set it aside
            continue
        except IsADirectoryError:
            content = b""
        state, problem = None, "damaged"
        if hashlib.sha256(content).hexdigest()[:16] == digest:
            with contextlib.suppress(Exception):  # whatever is wrong with bytes that are no checkpoint
                state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        if isinstance(state, dict):
            if run is None or state.get("run") == run:
                return state
            problem = "of another run"
        aside = path.with_suffix(".damaged")
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
        print(f"{path}: {problem}, not read; set aside as {aside.name}", file=sys.stderr, flush=True)
    return None


def read_saved(path: Path) -> dict[str, Any]:
    """Read a checkpoint, the weights.pt of a run, or the .safetensors file of an export.

    Raises:
        UserError: no such file, or it is none of these.
    """
    if path.suffix == ".safetensors":
        return _read_exported(path)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except Exception:  # whatever is wrong with bytes that are neither
        saved = None
    try:
        weights = saved.get("network", saved)
        whole = all(isinstance(tensor, torch.Tensor) for tensor in weights.values())
        whole &= "progress" not in saved or isinstance(saved["progress"]["iteration"], int)
    except (AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path}: neither weights nor a checkpoint of this project, or damaged: fetch it again")
    return saved


def _read_exported(path: Path) -> dict[str, Any]:
    """The weights of an export, without its normalization."""
    try:
        tensors = load_file(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not weights of an export ({error}): fetch it again") from None
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(NORMALIZATION)}


def read_trained(experiment: Experiment, record: run.Record, results: Path, root: Path) -> dict[str, torch.Tensor]:
    """The weights of a finished run, which must be those of its record.

    Raises:
        UserError: they are not here, or are others.
    """
    seed = record.metrics["seed"]
    path = run.find_weights(results, experiment, seed, root)
    if path is None:
        kept = run.get_checkpoint_folder(results, experiment, seed) / run.WEIGHTS
        raise UserError(
            f"{kept}: the trained weights are not here; they stay where the run was trained: fetch them, or export it "
            "there and `dvc pull models`"
        )
    weights = read_saved(path)
    if weights_sha256(weights) != record.metrics["weights_sha256"]:
        raise UserError(f"{path}: not the weights of the record {record.path}: remove the file and train the run again")
    return weights


def find_newest(folder: Path) -> int | None:
    """Iteration of the newest checkpoint in a folder."""
    return next((iteration for iteration, *_ in _listed(folder)), None)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run that has its record."""
    for *_, path in _listed(folder):
        path.unlink()


def weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """Hash of a state_dict's names, types, shapes and raw bytes: unlike a file of torch.save, the same everywhere."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def hold_run(experiment: Experiment, seed: int, results: Path) -> Iterator[None]:
    """Hold a run for this process alone, and clear away what a killed one left half written.

    Raises:
        UserError: another process holds it.
        OSError: no right to write where its files go.
    """
    checkpoints = run.get_checkpoint_folder(results, experiment, seed)
    folder = run.get_folder(results, experiment, seed)
    checkpoints.mkdir(parents=True, exist_ok=True)
    with (checkpoints / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is training this run: wait for it, or stop it") from None
        except OSError as error:
            print(f"{folder}: no lock ({error.strerror}): start no second process on it", file=sys.stderr, flush=True)
        remove_partial_files(checkpoints, _WRITTEN)
        for parent in (folder, folder / run.PARTIAL):
            remove_partial_files(parent, (run.METRICS, run.CURVE, run.PROVENANCE))
        yield
