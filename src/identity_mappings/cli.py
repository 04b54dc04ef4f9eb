"""The command line, `identity-mappings COMMAND`, and what a person sees of an error."""

import argparse
import errno
import os
import sys
from importlib.metadata import version
from pathlib import Path

from . import commands, report_commands  # noqa: F401  they add themselves to the parser
from .arguments import RESTART_EAGER, parser
from .errors import RecordingFailed, UserError
from .records import git

_ROOM = "free disk space, and rerun: saved work is kept"
_RIGHTS = "give yourself the right to write there, or take another folder (--results), and rerun"
_PLACE = "put a folder or a file where it is expected, and rerun"
_CURES = {  # of errors of file systems; any other OSError is a bug
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), and rerun: saved work is kept",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.EIO: "the disk or its connection fails: see the system's log, and rerun",
    errno.ESTALE: "the network file system has lost it: mount it again, and rerun",
    errno.EEXIST: _PLACE,
    errno.ENOTDIR: _PLACE,
    errno.EISDIR: _PLACE,
    errno.ELOOP: _PLACE,
}


class Version(argparse.Action):
    """Print the version of the package and, in a git clone, its commit."""

    def __call__(self, *_: object) -> None:
        found = git.describe(Path(__file__).parents[2])
        commit = f" (commit {found['commit']}{', with changes' if found['dirty'] else ''})" if found["commit"] else ""
        print(f"identity-mappings {version('identity-mappings')}{commit}")
        parser.exit()


parser.add_argument("--version", action=Version, nargs=0, help="show the version and commit, and exit")


def main(arguments: list[str] | None = None) -> int:
    # Must be there before CUDA starts, or deterministic cuBLAS refuses to work.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    parsed = parser.parse_args(arguments)
    try:
        return parsed.function(parsed) or 0
    except RecordingFailed as error:
        print(f"identity-mappings: {error}: starts again without recording", file=sys.stderr, flush=True)
        os.environ[RESTART_EAGER] = str(error)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except UserError as error:
        message = str(error)
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in _CURES:
            raise
        file = f"{error.filename}: " if error.filename else ""
        message = f"{file}{error.strerror}: {_CURES[error.errno]}"
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        message = f"a process that decodes images is gone ({str(error).splitlines()[0]}): is there too little memory? "
        message += "Take fewer (--workers), and rerun: a training resumes at its last checkpoint"
    except KeyboardInterrupt:
        return 130
    print(f"identity-mappings: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
