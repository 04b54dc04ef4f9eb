"""docs/reliability.md says what the code says."""

import errno
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/reliability.md").read_text()


def test_every_message_that_the_page_quotes_is_in_the_code():
    """Piece by piece: between them stand names and numbers."""
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("workflow/scripts/*.py")]
    code = " ".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text()) for file in files) + os.strerror(errno.ENOSPC)
    rows = [line.split(" | ") for line in TEXT.split("## Faults")[1].split("\n## ")[0].splitlines()]
    quoted = [message for row in rows if len(row) == 3 for message in re.findall(r'"([^"]+)"', row[2])]
    pieces = [piece.strip() for message in quoted for piece in re.split(r"\.\.\.|\bN\b|[():;,]", message)]
    assert len(quoted) > 10 and [piece for piece in pieces if piece not in code] == []
