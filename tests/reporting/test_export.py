"""Exported weights: what lies in an export, and that torch and safetensors alone give the network back."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from identity_mappings.data.images import load_images
from identity_mappings.errors import UserError
from identity_mappings.parameters import load
from identity_mappings.records import run
from identity_mappings.reporting.export import export
from identity_mappings.training import checkpoint
from identity_mappings.training.assembly import build
from identity_mappings.training.evaluate import evaluate
from identity_mappings.training.loop import train
from identity_mappings.training.trainer import Options

NAMES = ("cifar10-resnet110", "cifar10-resnet110-exclusive-gate-b6")
# Everything else that is installed here is made unreachable.
ALONE = """
import sys
for name in ("identity_mappings", "pydantic", "pandas", "matplotlib", "torchvision", "dvc", "snakemake", "sklearn",
             "yaml", "rich", "tabulate", "timm"):
    sys.modules[name] = None
"""


@pytest.fixture(scope="module")
def made(project_copy, tmp_path_factory) -> tuple[Path, Options]:
    """Two trained runs of one experiment, and one of a gate."""
    root = project_copy(tmp_path_factory.mktemp("export") / "project").root
    options = Options(root / "results/tiny", root / "data", device="cpu", root=root)
    for name, seeds in ((NAMES[0], [0, 1]), (NAMES[1], [0])):
        assert train(load(root).resolve(name, "tiny"), seeds, options) == 0
    return root, options


def folder(made, name: str = NAMES[0], seed: int = 0) -> Path:
    root, options = made
    return run.get_folder(options.results, load(root).resolve(name, "tiny"), seed)


@pytest.mark.parametrize("name", NAMES)
def test_three_lines_give_the_network_back(made, name, tmp_path):
    """In a Python that reaches torch and safetensors, but neither this project nor its other packages."""
    root, options = made
    target = export(folder(made, name), options, tmp_path / "models")
    card = (target / "README.md").read_text()
    lines = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    experiment = load(root).resolve(name, "tiny")
    images = load_images(experiment.parameters["dataset"])
    torch.save(images.test[:100], tmp_path / "images.pt")
    code = f"{ALONE}\nimport torch\nimages = torch.load({str(tmp_path / 'images.pt')!r})\n{lines}"
    code += f"\ntorch.save((network(images), classes), {str(tmp_path / 'scores.pt')!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=target, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scores, classes = torch.load(tmp_path / "scores.pt")

    network = build(experiment, root)
    kept = run.get_checkpoint_folder(options.results, experiment, 0) / run.WEIGHTS
    network.load_state_dict(checkpoint.read_saved(kept))
    mean = images.training.double().mean(0).float()
    with torch.no_grad():
        expected = network.eval()(images.test[:100].float() - mean)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(classes, scores.argmax(1))


def test_the_card_says_what_it_is(made, tmp_path):
    root, options = made
    text = (export(folder(made, seed=1), options, tmp_path) / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    metrics = [json.loads((folder(made, seed=seed) / run.METRICS).read_bytes()) for seed in (0, 1)]
    [result] = head["model-index"][0]["results"]
    assert head["license"] == "mit" and head["model-index"][0]["name"] == NAMES[0]
    assert result["metrics"][0]["value"] == pytest.approx(100 - metrics[1]["test_error"])
    assert result["dataset"]["name"] == "digits" and result["task"]["type"] == "image-classification"
    for metric in metrics:
        assert f"| {metric['seed']}" in text and f"{metric['test_error']:.2f}" in text
    assert "1 (these weights)" in text and re.search(r"standard deviation [\d.]+ points over 2 runs", text)
    assert metrics[1]["weights_sha256"] in text and load(root).datasets["digits"].md5 in text
    for heading in ("## Errors", "## How to load it", "## Recipe", "## Limits"):
        assert heading in text
    assert "Scale `tiny`" in text


def test_an_export_is_the_same_bytes_again(made, tmp_path):
    _, options = made
    first, second = (export(folder(made), options, tmp_path / name) for name in "ab")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert Path("model.safetensors") in files and Path("network/__init__.py") in files
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)


def test_a_clone_is_tested_by_exported_weights(made, tmp_path):
    """What `dvc pull models` brings does for `evaluate` what the checkpoint of the training does."""
    root, options = made
    shutil.copytree(root, tmp_path / "clone")
    clone = Options(tmp_path / "clone/results/tiny", root / "data", device="cpu", root=tmp_path / "clone")
    experiment = load(root).resolve(NAMES[0], "tiny")
    shutil.rmtree(clone.results / "checkpoints")
    with pytest.raises(UserError, match="dvc pull models"):
        evaluate(experiment, 0, ["single-view"], clone)
    export(folder(made), options, clone.root / run.MODELS)
    [path] = evaluate(experiment, 0, ["single-view"], clone)
    metrics = json.loads((folder(made) / run.METRICS).read_bytes())
    assert json.loads(path.read_bytes())["test_error"] == metrics["test_error"]


def test_what_cannot_be_exported_says_why(made, tmp_path):
    root, options = made
    with pytest.raises(UserError, match="no record of a run here"):
        export(root, options, tmp_path)
    shutil.copytree(root, tmp_path / "clone")
    clone = Options(tmp_path / "clone/results/tiny", root / "data", device="cpu", root=tmp_path / "clone")
    moved = clone.root / folder(made).relative_to(root)
    experiment = load(root).resolve(NAMES[0], "tiny")
    kept = run.get_checkpoint_folder(clone.results, experiment, 0) / run.WEIGHTS
    shutil.copy2(run.get_checkpoint_folder(clone.results, experiment, 1) / run.WEIGHTS, kept)
    with pytest.raises(UserError, match="not the weights of the record"):
        export(moved, clone, tmp_path)
    kept.unlink()
    with pytest.raises(UserError, match="export it there"):
        export(moved, clone, tmp_path)


def test_models_are_tracked_by_dvc(made, tmp_path):
    root, _ = made
    copy = tmp_path / "repository"
    shutil.copytree(root, copy)
    for words in (["git", "init", "-q"], [str(Path(sys.executable).parent / "dvc"), "init", "-q"]):
        subprocess.run(words, cwd=copy, check=True)
    words = [sys.executable, "-m", "identity_mappings", "export", str(folder(made).relative_to(root)), "--track"]
    environment = {"PYTHONPATH": str(copy / "src"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [output] = yaml.safe_load((copy / "models.dvc").read_text())["outs"]
    assert output["path"] == "models" and output["nfiles"] >= 11
    shutil.rmtree(copy / "models")
    subprocess.run([Path(sys.executable).parent / "dvc", "checkout", "-q", "models"], cwd=copy, check=True)
    assert list((copy / "models").rglob("model.safetensors"))
