"""The validation split: what the training sees, what a run is tested on, and that no table shows it."""

import json
import subprocess

import pytest
import torch

from identity_mappings.data.images import hold_out, load_images
from identity_mappings.errors import UserError
from identity_mappings.parameters import load
from identity_mappings.records import run
from identity_mappings.reporting import tables
from identity_mappings.reporting.audit import audit
from identity_mappings.training.loop import train
from identity_mappings.training.trainer import Options, Trainer

NAME = "cifar10-resnet110-exclusive-gate-b6-split"
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")


@pytest.fixture
def project(copy):
    """The tiny scale, in which 297 of the 1,297 digits are held out."""
    copy.edit(
        "params/scales/tiny.yaml", "  recipe:\n", "  recipes: {he2016-cifar-split: {validation: 297}}\n  recipe:\n"
    )
    copy.edit("params/scales/tiny.yaml", "experiments: [", f"experiments: [{NAME}, ")
    return copy


@pytest.fixture
def images():
    return load_images({"name": "digits", **load().datasets["digits"].model_dump()})


def test_training_and_validation_are_the_training_set(images):
    split = hold_out(images, 297)
    assert (len(split.training), len(split.test)) == (1000, 297)
    both = torch.cat([split.training, split.test]).flatten(1)
    assert torch.equal(both.unique(dim=0), images.training.flatten(1).unique(dim=0))
    labels = torch.cat([split.training_labels, split.test_labels])
    assert torch.equal(labels.bincount(), images.training_labels.bincount())
    assert torch.equal(split.test, hold_out(images, 297).test), "the same every time, whatever the seed"


def test_a_run_never_sees_the_test_set(project, images):
    experiment = load(project.root).resolve(NAME, "tiny")
    spoiled = images._replace(test=torch.zeros_like(images.test), test_labels=torch.zeros_like(images.test_labels))
    for seed in (0, 1):
        options = Options(project.root / "results/tiny", device="cpu", root=project.root)
        one, other = (Trainer(experiment, seed, torch.device("cpu"), options, given) for given in (images, spoiled))
        assert one.feed.counts == {"training_images": 1000, "test_images": 297}
        assert torch.equal(one.feed.augmentation.mean, images.training[_kept(images)].double().mean(0).float())
        assert one.step(0)[0] == other.step(0)[0] and one.test() == other.test()


def _kept(images) -> torch.Tensor:
    held = {tuple(row) for row in hold_out(images, 297).test.flatten(1).tolist()}
    return torch.tensor([tuple(row) not in held for row in images.training.flatten(1).tolist()])


def test_a_run_is_recorded_and_audited_and_stands_in_no_table_of_errors(project):
    root = project.root
    project.add_code()
    (root / ".gitignore").write_text("__pycache__/\n/results/\n/data/\n")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all")):
        subprocess.run([*GIT, *words], cwd=root, check=True)
    experiment, options = load(root).resolve(NAME, "tiny"), Options(root / "results/tiny", device="cpu", root=root)
    assert train(experiment, 0, options) == 0
    metrics = json.loads((run.get_folder(options.results, experiment, 0) / run.METRICS).read_bytes())
    assert metrics["test"]["images"] == 297 and "297 held-out" in metrics["protocol"]
    tables.write_tables("tiny", root)
    cells = json.loads((root / "results/tiny/tables.json").read_bytes())["cells"]
    shown = [cell for cell in cells if cell["records"] and cell["experiment"] == NAME]
    assert {cell["metric"]: cell["measured"] for cell in shown} == {
        "training and validation images": "1k/0.297k",
        "gate bias of the lowest validation error": "-6",  # of the one that was run
    }
    assert audit("tiny", root) == 0


def test_a_table_of_test_errors_refuses_it(copy):
    copy.edit("params/tables/he2016-table1.yaml", "[cifar10-resnet110-exclusive-gate-b6]", f"[{NAME}]")
    with pytest.raises(UserError, match=rf"he2016-table1.*{NAME}: its recipe tests on held-out training images"):
        load(copy.root)


def test_too_large_a_split_says_so(copy):
    copy.edit("params/recipes/he2016-cifar-split.yaml", "validation: 5000", "validation: 50000")
    with pytest.raises(UserError, match="hold out fewer"):
        load(copy.root).resolve(NAME)
    assert load().resolve(NAME, "demo") is None, "the demo has 1,297 digits: no counterpart"


def test_the_split_is_the_only_difference_and_changes_no_digest_of_others():
    project = load()
    split, whole = project.resolve(NAME), project.resolve(NAME.removesuffix("-split"))
    recipe = dict(split.parameters["recipe"])
    assert recipe.pop("validation") == 5000
    assert recipe == {key: value for key, value in whole.parameters["recipe"].items() if key != "validation"}
    assert split.parameters["network"] == whole.parameters["network"]
    assert (whole.digest, project.resolve("cifar10-resnet20").digest) == ("425860a9d76b", "5e7d08ccf366")


def test_the_papers_scale_wants_one_run_of_each_bias():
    """No table shows their errors; a cell names them as a choice."""
    wanted = [(each, seed) for each, seed in load().list_runs_to_train("paper") if each.name.endswith("-split")]
    biases = [each.parameters["network"]["shortcut"]["gate_bias"] for each, _ in wanted]
    assert sorted(biases, reverse=True) == [-bias for bias in range(11)]
    assert {seed for _, seed in wanted} == {0}
