"""What a run has done so far: all that its record and an exact resume need."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ..records.run import FIRST_LOSSES

COLUMNS = ("iteration", "learning_rate", "training_loss", "training_error", "test_loss", "test_error")


def _text(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else format(value, ".9g")


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        iteration: completed iterations.
        losses, wrong: of the iterations since the last row of the curve; `images` of them were seen.
        rows: of curve.csv, as text.
        first_losses: exact, as float.
        last, best: the last test and the best, {"iteration", "wrong", "images", "test_error", "test_loss"}.
        diverged_at: iteration whose loss was not finite.
        pending: whether the test and the row of this iteration are still to be made.
        sessions: {"git", "device", "started", "finished", "from_iteration", "to_iteration", "seconds", "runs_at_once",
            "device_seconds", "peak_memory_bytes"} of each process; several runs at once share its device's seconds.
    """

    iteration: int = 0
    losses: list[float] = field(default_factory=list)
    wrong: int = 0
    images: int = 0
    rows: list[list[str]] = field(default_factory=list)
    first_losses: list[float] = field(default_factory=list)
    last: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    training_loss: float | None = None
    training_error: float | None = None
    diverged_at: int | None = None
    sessions: list[dict[str, Any]] = field(default_factory=list)
    pending: bool = False

    def saved(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> "Progress":
        return cls(**saved)

    def take(self, losses: list[float], wrong: int, images: int) -> bool:
        """Count iterations that were done; False from the first loss on that is not finite."""
        finite = next((index for index, loss in enumerate(losses) if not math.isfinite(loss)), None)
        done = losses if finite is None else losses[:finite]
        self.first_losses += done[: max(0, FIRST_LOSSES - len(self.first_losses))]
        self.losses += done
        self.iteration += len(done)
        self.wrong, self.images = self.wrong + wrong, self.images + images
        if finite is not None:
            self.diverged_at = self.iteration
            return False
        return True

    def tested(self, wrong: int, images: int, loss: float, wrong_top_5: int | None = None) -> None:
        """Note a test of the network as it is after `iteration` iterations."""
        self.last = {
            "iteration": self.iteration,
            "test_error": round(100 * wrong / images, 6),
            "wrong": wrong,
            "images": images,
            "test_loss": loss if math.isfinite(loss) else None,
        }
        if wrong_top_5 is not None:
            self.last |= {"top_5_error": round(100 * wrong_top_5 / images, 6), "wrong_top_5": wrong_top_5}
        if self.best is None or wrong < self.best["wrong"]:
            self.best = self.last

    def detected(self, found: dict[str, Any]) -> None:
        """Note a test of a detector: {"images", "mean_average_precision": in %, ...}; its error is 100 % less that."""
        error = round(100 - found["mean_average_precision"], 6)
        self.last = {"iteration": self.iteration, "test_error": error, **found, "test_loss": None}
        if self.best is None or error < self.best["test_error"]:
            self.best = self.last

    def row(self, learning_rate: float) -> None:
        """End a row of the curve at the present iteration."""
        if not self.losses:
            return
        tested = self.last if self.last and self.last["iteration"] == self.iteration else {}
        self.training_loss = math.fsum(self.losses) / len(self.losses)
        self.training_error = 100 * self.wrong / self.images if self.images else None
        values = (
            self.iteration,
            learning_rate,
            self.training_loss,
            self.training_error,
            tested.get("test_loss"),
            tested.get("test_error"),
        )
        self.rows.append([_text(value) for value in values])
        self.losses, self.wrong, self.images = [], 0, 0

    def curve(self) -> bytes:
        """curve.csv."""
        return "".join(",".join(row) + "\n" for row in [COLUMNS, *self.rows]).encode()
