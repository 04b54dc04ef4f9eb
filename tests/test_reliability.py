"""docs/reliability.md: each fault names the test that repeats it."""

import ast
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
