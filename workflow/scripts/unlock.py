"""Remove the lock that a killed Snakemake left in this folder, so that the same command goes on.

Where a Snakemake still runs in the folder on this machine, its lock stays, and the next call says so.
"""

import subprocess
import sys
from pathlib import Path

import psutil  # comes with Snakemake


def is_running_here(process: psutil.Process) -> bool:
    try:
        return process.cwd() == str(Path.cwd()) and any(
            Path(word).name == "snakemake" for word in process.cmdline()[:3]
        )
    except psutil.Error:  # of another user, or ended meanwhile
        return False


if any(Path(".snakemake/locks").glob("*")) and not any(map(is_running_here, psutil.process_iter())):
    print("a Snakemake that was killed left a lock: removed", file=sys.stderr)
    subprocess.run([Path(sys.executable).with_name("snakemake"), "--unlock", "--quiet", "all"], check=True)
