from pathlib import Path

import pytest


@pytest.fixture
def copy(project_copy, tmp_path: Path):
    return project_copy(tmp_path / "project", few_figures=True)
