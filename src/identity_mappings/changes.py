"""Which reports and measurements have to be made again.

Content decides, not times: those of a clone or of an experiment of DVC mean nothing. But Snakemake makes a file again
only for a newer input (or for metadata, which a clone lacks). So a rule whose output is outdated gets a stamp as input:
a file that is newer than its output.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .parameters import Project
from .records import measurement
from .records.files import parse_json, sha256_of
from .records.measurement import SIGNALS, SIGNALS_DONE
from .reporting.fingerprint import is_current, of_cost, of_signals

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
        return self._of_report(wildcards.root, "tables.json")

    def figures(self, wildcards: Any) -> list[str]:
        return self._of_report(wildcards.root, "figures/figures.json")

    def page(self, wildcards: Any) -> list[str]:
        return self._of_report(wildcards.root, "report.json")

    def cost(self, wildcards: Any) -> list[str]:
        return self._of_measurement(wildcards.root, COST, self._cost_is_current)

    def signals(self, wildcards: Any) -> list[str]:
        return self._of_measurement(wildcards.root, SIGNALS_INDEX, self._signals_are_current)

    def outdated_cost(self, wildcards: Any) -> list[str]:
        """The cost record, for a report, where it has to be made first."""
        return [] if self._cost_is_current(self.roots[wildcards.root]) else [f"{wildcards.root}/{COST}"]

    def measurements_are_current(self, scale: str) -> bool:
        return self._cost_is_current(scale) and self._signals_are_current(scale)

    def _cost_is_current(self, scale: str) -> bool:
        try:
            return self._read(scale, COST)["fingerprint"] == of_cost(self.project, scale)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _signals_are_current(self, scale: str) -> bool:
        if not self.project.propagated(scale):
            return True
        folder = self.project.root / self.project.scale(scale).results / SIGNALS
        try:
            facts = self._read(scale, SIGNALS_INDEX)
            whole = all(sha256_of(folder / name) == digest for name, digest in facts["files"].items())
            return whole and facts["fingerprint"] == of_signals(self.project, scale)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def _read(self, scale: str, file: str) -> dict[str, Any]:
        return parse_json((self.project.root / self.project.scale(scale).results / file).read_bytes())

    def _of_report(self, root: str, file: str) -> list[str]:
        path = self.project.root / root / file
        current = not path.is_file() or is_current(self.project, self.roots[root], path)
        return [] if current else self._newer(root, file)

    def _of_measurement(self, root: str, file: str, is_current: Callable[[str], bool]) -> list[str]:
        current = not (self.project.root / root / file).exists() or is_current(self.roots[root])
        return [] if current else self._newer(root, file)

    def _stamp(self, root: str, file: str) -> Path:
        return self.project.root / "logs" / root / f".{Path(file).stem}-changed"

    def _newer(self, root: str, file: str) -> list[str]:
        """The stamp, made newer than `file` and its neighbours."""
        stamp, now = self._stamp(root, file), time.time()
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(f"{now}")  # other content, too: Snakemake takes a known checksum for no change
        newest = max(path.stat().st_mtime for path in (self.project.root / root / file).parent.iterdir())
        os.utime(stamp, (now, max(now, newest + 1)))
        return [stamp.relative_to(self.project.root).as_posix()]
