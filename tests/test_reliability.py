"""docs/reliability.md: each fault names the test that repeats it."""

import ast
import errno
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/reliability.md").read_text()


def test_every_test_that_the_page_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    for file, name in named:
        functions = {
            node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, f"{file} has no {name}"
    table = TEXT.split("## Faults")[1].split("###")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert rows and all(re.search(r"\| `tests/[^`]+` \|$", row) for row in rows), "a row without its test"
    assert len(named) == len(rows)


def test_every_message_that_the_page_quotes_is_in_the_code():
    """Piece by piece: between them stand names and numbers."""
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("workflow/scripts/*.py")]
    code = " ".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text()) for file in files) + os.strerror(errno.ENOSPC)
    rows = [line.split(" | ") for line in TEXT.split("## Faults")[1].split("###")[0].splitlines()]
    quoted = [message for row in rows if len(row) == 5 for message in re.findall(r'"([^"]+)"', row[3])]
    pieces = [piece.strip() for message in quoted for piece in re.split(r"\.\.\.|\bN\b|[():;,]", message)]
    assert len(quoted) > 10 and [piece for piece in pieces if piece not in code] == []
