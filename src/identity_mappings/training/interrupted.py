"""SIGTERM and SIGINT, noted."""

import signal
from types import FrameType


class Interrupted:
    """Notes SIGTERM and SIGINT, so that a run ends between two iterations, with a checkpoint.

    Attributes:
        signal: that came.
        deaf: whether they are without effect to the end of the process, which is ending by itself.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.deaf = False

    def __enter__(self) -> "Interrupted":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_IGN if self.deaf else handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
