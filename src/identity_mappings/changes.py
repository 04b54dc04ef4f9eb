"""Which reports and measurements have to be made again.

Content decides, not times: those of a clone or of an experiment of DVC mean nothing. But Snakemake makes a file again
only for a newer input (or for metadata, which a clone lacks). So a rule whose output is outdated gets a stamp as input:
a file that is newer than its output.
"""

import os
import time
from pathlib import Path
from typing import Any

from .parameters import Project
from .records import measurement
from .records.measurement import SIGNALS, SIGNALS_DONE
from .reporting.fingerprint import is_current

COST, SIGNALS_INDEX = f"{measurement.COST}/{measurement.COST_JSON}", f"{SIGNALS}/{SIGNALS_DONE}"
REPORTS = ("tables.json", "figures/figures.json", "report.json")


class Changes:
    """Methods that take `wildcards` are input functions of rules.

    Args:
        roots: {folder of results: scale}.
    """

    def __init__(self, project: Project, roots: dict[str, str]):
        self.project, self.roots = project, roots
        for results in roots:  # Snakemake lists a folder once, before it calls input functions
            if (project.root / results).is_dir():
                for file in (*REPORTS, COST, SIGNALS_INDEX):
                    stamp = self._stamp(results, file)
                    stamp.parent.mkdir(parents=True, exist_ok=True)
                    if not stamp.exists():
                        stamp.touch()

    def tables(self, wildcards: Any) -> list[str]:
        return self._renew_stamp(wildcards.root, "tables.json")

    def figures(self, wildcards: Any) -> list[str]:
        return self._renew_stamp(wildcards.root, "figures/figures.json")

    def page(self, wildcards: Any) -> list[str]:
        return self._renew_stamp(wildcards.root, "report.json")

    def cost(self, wildcards: Any) -> list[str]:
        return self._renew_stamp(wildcards.root, COST)

    def signals(self, wildcards: Any) -> list[str]:
        return self._renew_stamp(wildcards.root, SIGNALS_INDEX)

    def outdated_cost(self, wildcards: Any) -> list[str]:
        """The cost record, for a report, where it has to be made first."""
        return [] if self._is_current(wildcards.root, COST) else [f"{wildcards.root}/{COST}"]

    def measurements_are_current(self, scale: str) -> bool:
        return all(self._is_current(self.project.scale(scale).results, file) for file in (COST, SIGNALS_INDEX))

    def _is_current(self, root: str, file: str) -> bool:
        if file == SIGNALS_INDEX and not self.project.list_for_signals(self.roots[root]):
            return True
        return is_current(self.project, self.roots[root], self.project.root / root / file)

    def _stamp(self, root: str, file: str) -> Path:
        return self.project.root / "logs" / root / f".{Path(file).stem}-changed"

    def _renew_stamp(self, root: str, file: str) -> list[str]:
        """Where `file` is there, and outdated: its stamp, made newer than it and its neighbours."""
        path = self.project.root / root / file
        if not path.is_file() or self._is_current(root, file):
            return []
        stamp, now = self._stamp(root, file), time.time()
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(f"{now}")  # other content, too: Snakemake takes a known checksum for no change
        newest = max(neighbour.stat().st_mtime for neighbour in path.parent.iterdir())
        os.utime(stamp, (now, max(now, newest + 1)))
        return [stamp.relative_to(self.project.root).as_posix()]
