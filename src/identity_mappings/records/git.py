"""What git can tell of a checkout, in bounded time, and in words what it cannot tell."""

import io
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files import hash_file, sha256

RUNS_ON = ("src", "params")
PATIENCE = 20  # seconds that git has for an answer
# Of the caller's environment: what would make git answer for another repository than the one around the folder.
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")
_QUIET = {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
_REASONS = {  # in git's own words: ours, which name no person and no folder
    "dubious ownership": "git refuses a checkout of another owner: git config --global --add safe.directory FOLDER",
    "not a git repository": "the folder is in no git repository (an archive, or a copy): clone the project",
    "Needed a single revision": "HEAD names no commit (an empty or damaged repository): git fsck, or clone it again",
}


class GitError(Exception):
    """Why git did not tell something, with the cure; names no person, host or folder."""


def run_git(root: Path, *words: str, stdin: bytes = b"") -> bytes:
    """The standard output of a git command that only reads.

    Raises:
        GitError: no git, no repository, an error, or no answer within PATIENCE.
    """
    environment = {**{key: value for key, value in os.environ.items() if key not in _ELSEWHERE}, **_QUIET}
    call = ["git", "-c", "core.fsmonitor=false", *words]
    try:  # in a session of its own: a signal to this process' group is not for git
        process = subprocess.run(
            call, cwd=root, env=environment, input=stdin, capture_output=True, timeout=PATIENCE, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        raise GitError(f"`git {words[0]}` did not answer within {PATIENCE} s: call it by hand") from None
    except OSError:
        raise GitError("git is not installed, or cannot be started: install it") from None
    if process.returncode:
        message = process.stderr.decode("utf-8", "replace")
        reason = next((ours for theirs, ours in _REASONS.items() if theirs in message), None)
        raise GitError(reason or f"`git {words[0]}` failed with exit status {process.returncode}: call it by hand")
    return process.stdout


def list_files(root: Path, commit: str) -> dict[str, str]:
    """{path: object name} of a commit's files below a folder; raises as `run_git`."""
    entries = run_git(root, "ls-tree", "-r", "-z", commit).decode(errors="surrogateescape").split("\0")[:-1]
    return {path: words.split()[2] for words, path in (entry.split("\t", 1) for entry in entries)}


def read_objects(root: Path, names: Iterable[str]) -> dict[str, bytes]:
    """{object name: content}, in one call of git; raises as `run_git`."""
    answer = io.BytesIO(run_git(root, "cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode()))
    contents = {}
    for head in iter(answer.readline, b""):
        name, kind, *size = head.decode().split()
        if kind != "missing":
            contents[name] = answer.read(int(size[0]))
            answer.read(1)
    return contents


def describe(root: Path) -> dict[str, Any]:
    """The commit of a checkout, and the hash of what differs from it below RUNS_ON.

    Returns:
        "commit", "dirty" and "diff_sha256", null where they cannot be told; and, only where something cannot be told,
        "unknown": a list of what and why.
    """
    found: dict[str, Any] = {"commit": None, "dirty": None, "diff_sha256": None}
    unknown: list[str] = []
    try:
        commit = run_git(root, "rev-parse", "--verify", "HEAD^{commit}").strip().decode("ascii", "replace")
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit):
            raise GitError("`git rev-parse` names no commit: call it by hand")
        if not run_git(root, "ls-files", "-z", "--", *RUNS_ON):
            raise GitError("the git repository around the folder does not hold its sources: clone the project")
        found["commit"] = commit
        plain = ("--no-ext-diff", "--no-textconv", "--no-color")
        difference = run_git(root, "diff", *plain, "HEAD", "--", *RUNS_ON)
        others = run_git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *RUNS_ON)
        for path in map(os.fsdecode, filter(None, others.split(b"\0"))):
            try:
                difference += f"{hash_file(root / path)} {path}\n".encode(errors="surrogateescape")
            except OSError as error:
                unknown.append(f"{ascii(path)[1:-1]}: {error.strerror}")
                if not isinstance(error, FileNotFoundError):  # a link to nothing, as an editor's lock, is no change
                    difference += f"unread {path}\n".encode(errors="surrogateescape")
        found |= {"dirty": bool(difference), "diff_sha256": sha256(difference) if difference else None}
    except GitError as reason:
        unknown.append(str(reason))
    return {**found, "unknown": unknown} if unknown else found
