"""A copy of the project that a test may change, with a scale that trains in a second."""

import gc
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock  # comes with torch

import fork_server

ROOT = Path(__file__).parents[1]
PARTS = (
    "Makefile",
    "Snakefile",
    "data.dvc",
    "dvc.yaml",
    "examples",
    "params",
    "profiles",
    "pyproject.toml",
    "requirements.lock",
    "workflow",
)
TINY = """
description: For tests.
results: results/tiny
runs: 1
signal_iterations: 2
device: cpu
published: false
experiments: [cifar10-resnet110, cifar10-resnet110-dropout, cifar10-resnet110-exclusive-gate-b6]
leave_out: [cifar10-resnet1001-full-pre-activation-released-code]
overlay:
  datasets: {cifar10: digits, cifar100: null, imagenet: null}
  depths: {basic: {110: 8, 1202: null}, single: {110: 8}, bottleneck: {164: 11, 1001: 11}}
  recipe:
    batch_size: 16
    batch_norm_samples: 8
    iterations: 8
    learning_rate: {0: 0.01, 2: 0.1, 6: 0.01}
    crop_padding: 1
    evaluate_every: 4
    log_every: 2
    cpu_threads: 1
"""
FIGURES = ("he2015-figure7", "he2016-figure3", "own-signals")  # responses, curves, signals


STAND_INS = str(ROOT / "tests/stand_ins")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("markexpr", "") != "gpu":  # all other tests see a machine without a GPU, whatever it has
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        sys.path.insert(0, STAND_INS)
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        fork_server.share_server()  # for all workers of pytest-xdist


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # each run that a test trains ends with a collection, which leaves what was imported alone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    # Long files first, so that workers end together; Slurm's tests, which mostly wait, beside all others.
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("slurm", "slow")])
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            reason = "a GPU's tests run alone: make gpu-check, or pytest -m gpu, on a machine with an NVIDIA GPU"
            item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("slurm") and not shutil.which("sbatch"):
            item.add_marker(pytest.mark.skip(reason="no Slurm here"))
        if item.get_closest_marker("browser") and not (shutil.which("chromium") and shutil.which("chromedriver")):
            item.add_marker(pytest.mark.skip(reason="no Chromium here: apt-get install chromium chromium-driver"))


class Copy:
    """A copy of the project's files in a folder of its own.

    Args:
        few_figures: leave out all figures but one of each kind, and all but its first panel; drawing all takes as long
            as the graph of scale tiny.
        code: copy the sources, too; without, commands run those of the checkout.
    """

    def __init__(self, root: Path, few_figures: bool = False, code: bool = True):
        self.root = root
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, root / part)
            else:
                root.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, root / part)
        if code:
            self.add_code()
        (root / "params/scales/tiny.yaml").write_text(TINY)
        for path in (root / "params/figures").iterdir() if few_figures else ():
            if path.stem in FIGURES:
                path.write_text("".join(re.split(r"^(?=  - title: )", path.read_text(), flags=re.MULTILINE)[:2]))
            else:
                path.unlink()

    def add_code(self) -> None:
        ignore = shutil.ignore_patterns("*.egg-info")  # compiled sources come with theirs
        shutil.copytree(ROOT / "src", self.root / "src", ignore=ignore)

    @classmethod
    def at(cls, root: Path) -> "Copy":
        """A copy that is there already."""
        project = object.__new__(cls)
        project.root = root
        return project

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # A test may change a source twice within a second, which Python's cache would not see.
        source = next(root / "src" for root in (self.root, ROOT) if (root / "src").is_dir())
        own = {"PYTHONPATH": str(source), "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
        return {**os.environ, **own}

    @property
    def forking_environment(self) -> dict[str, str]:
        """The same, but Python's commands are forked from `fork_server`."""
        return {**self.environment, "PATH": f"{fork_server.find_commands()}{os.pathsep}{self.environment['PATH']}"}

    def call(self, *command: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess:
        """Run a command in the copy; standard output and error together as text.

        Python's commands are forked from `fork_server`, except with `PATH=copy.environment["PATH"]`, which starts them
        as a user does.
        """
        return subprocess.run(
            ["python" if command[0] == sys.executable else command[0], *command[1:]],
            cwd=self.root,
            env={**self.forking_environment, **environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )

    def snakemake(self, *arguments: str, cores: int = 2, **environment: str) -> subprocess.CompletedProcess:
        return self.call("snakemake", "--cores", str(cores), *arguments, **environment)

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return self.call(sys.executable, "-m", "identity_mappings", *arguments, **environment)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text, f"{path} has no {old!r}"
        (self.root / path).write_text(text.replace(old, new))

    def bytes_of(self, folder: str, *names: str) -> dict[str, bytes]:
        """{path: content} of the files of these names below a folder, without the copies beside checkpoints."""
        root = self.root / folder
        paths = (path.relative_to(root) for name in names for path in sorted(root.rglob(name)))
        return {str(path): (root / path).read_bytes() for path in paths if "checkpoints" not in path.parts}


@pytest.fixture(scope="session")
def root_of_project() -> Path:
    """The checkout. Only to be read."""
    return ROOT


@pytest.fixture(scope="session")
def project_copy() -> type[Copy]:
    return Copy


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "project", code=False)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy in which scale tiny was trained, once for all workers. Only to be read, or copied by `clone`."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    root, ready = shared / "trained" / "project", shared / "trained" / "ready"
    with FileLock(shared / "trained.lock"):
        if ready.exists():
            return Copy.at(root)
        project = Copy(root, few_figures=True)
        done = project.snakemake("--config", "scale=tiny")
        assert done.returncode == 0, done.stdout
        ready.touch()
    return project


@pytest.fixture
def clone(trained: Copy, tmp_path: Path) -> Copy:
    """What a git clone of `trained` would be: its committed files, at another place, without Snakemake's metadata."""
    project = Copy(tmp_path / "elsewhere" / "clone")
    shutil.rmtree(project.root / "params")
    shutil.copytree(trained.root / "params", project.root / "params")
    ignore = shutil.ignore_patterns("checkpoints", ".*")
    shutil.copytree(trained.root / "results", project.root / "results", ignore=ignore)
    for number, path in enumerate(sorted(project.root.rglob("*"), key=lambda path: hash(str(path)))):
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))  # the times of a clone mean nothing
    return project
