"""What an experiment is, and that its digest stands for all that its numbers depend on, and for nothing else."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from identity_mappings.errors import UserError
from identity_mappings.parameters import load
from identity_mappings.records.experiment import Experiment
from identity_mappings.records.files import sha256

ROOT = Path(__file__).parents[2]
PROJECT = load(ROOT)
RECIPE = "params/recipes/he2016-cifar.yaml"
# Between them they have every key: a gate's bias, a scaled shortcut, a bottleneck, channel means, digits.
VARIED = [
    ("cifar10-resnet110-exclusive-gate-b6", "paper"),
    ("cifar10-resnet110-scaled-05-05", "demo"),
    ("cifar10-resnet1001-full-pre-activation-released-code", "paper"),
]


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Every number, text, flag and null in nested mappings and lists, with the way to it."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def other(leaf: Any) -> Any:
    if isinstance(leaf, bool):
        return not leaf
    if leaf is None:
        return 1
    return leaf + "x" if isinstance(leaf, str) else leaf * 1.0000001 + 1e-9


def changed(experiment: Experiment, path: tuple, change: Any) -> Experiment:
    """The experiment with `change` applied to the mapping or list that holds the leaf at `path`."""
    parameters = deepcopy(experiment.parameters)
    place = parameters
    for key in path[:-1]:
        place = place[key]
    change(place, path[-1])
    return replace(experiment, parameters=parameters)


def reordered(value: Any) -> Any:
    """Mappings with their keys backwards; lists keep their order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


def rewrite(path: Path, change: Any) -> None:
    path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text())), sort_keys=False))


@pytest.mark.parametrize(("name", "scale"), VARIED)
def test_every_leaf_changes_the_digest(name, scale):
    experiment = PROJECT.resolve(name, scale)
    digests = {(): experiment.digest}
    for path, leaf in leaves(experiment.parameters):
        digests[path] = changed(
            experiment, path, lambda place, key, leaf=leaf: place.__setitem__(key, other(leaf))
        ).digest
    assert len(digests) > 40
    same = [path for path, digest in digests.items() if list(digests.values()).count(digest) > 1]
    assert not same, "these changes cannot be told from each other or from none"


@pytest.mark.parametrize(("name", "scale"), VARIED)
def test_leaving_a_value_out_changes_the_digest(name, scale):
    experiment = PROJECT.resolve(name, scale)
    for path, leaf in leaves(experiment.parameters):
        less = changed(experiment, path, lambda place, key: place.pop(key))
        assert (less.digest == experiment.digest) == (leaf is None), path


def test_the_order_of_a_list_changes_the_digest():
    experiment = PROJECT.resolve("cifar10-resnet110")
    for key in ("weight_decay_on", "learning_rate"):
        other_order = changed(experiment, ("recipe", key), lambda place, key: place[key].reverse())
        assert other_order.digest != experiment.digest


@pytest.mark.parametrize(
    "change",
    [{"name": "another"}, {"scale": "demo"}, {"gpus": 4}, {"custom_source": "elsewhere.py"}],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_no_number_is_not_in_the_digest(change):
    experiment = PROJECT.resolve("cifar10-resnet110")
    assert replace(experiment, **change).digest == experiment.digest


def test_the_order_of_keys_is_not_in_the_digest():
    experiment = PROJECT.resolve("cifar10-resnet110-exclusive-gate-b6")
    backwards = replace(experiment, parameters=reordered(experiment.parameters))
    assert list(backwards.parameters) != list(experiment.parameters)
    assert backwards.digest == experiment.digest


def test_a_new_key_that_is_null_is_not_in_the_digest():
    experiment = PROJECT.resolve("cifar10-resnet110-exclusive-gate-b6")
    for path in (("new",), ("dataset", "new"), ("network", "shortcut", "new"), ("recipe", "new")):
        added = changed(experiment, path, lambda place, key: place.__setitem__(key, None))
        assert added.digest == experiment.digest


def test_comments_and_order_in_a_file_are_not_in_the_digest(copy):
    before = PROJECT.resolve("cifar10-resnet110").digest
    rewrite(copy.root / RECIPE, lambda recipe: {key: recipe[key] for key in reversed(recipe)})  # drops all comments
    assert load(copy.root).resolve("cifar10-resnet110").digest == before


def test_descriptions_gpus_and_null_keys_in_files_are_not_in_the_digest(copy):
    before = PROJECT.resolve("cifar10-resnet20").digest
    recipe_of_it = copy.root / "params/recipes/he2015-cifar.yaml"
    rewrite(recipe_of_it, lambda recipe: {**recipe, "description": "other words", "channel_mean": None})
    copy.edit("params/scales/paper.yaml", "own sizes", "very own sizes")
    copy.edit("params/experiments/cifar10.yaml", "network: {depth: 20}}", "network: {depth: 20}, gpus: 2}")
    experiment = load(copy.root).resolve("cifar10-resnet20")
    assert experiment.gpus == 2
    assert experiment.digest == before


CUSTOM = """
own: {{dataset: cifar10, recipe: he2016-cifar, network: {{depth: 20, shortcut: {{
  kind: custom, source: {source}, class_name: Halved, arguments: {{{arguments}}}}}}}}}
"""


def custom(copy, source: str, content: str = "class Halved: ...\n", arguments: str = "factor: 0.5") -> Experiment:
    (copy.root / source).parent.mkdir(exist_ok=True)
    (copy.root / source).write_text(content)
    (copy.root / "params/experiments/own.yaml").write_text(CUSTOM.format(source=source, arguments=arguments))
    return load(copy.root).resolve("own")


def test_a_custom_shortcut_counts_by_its_content_not_by_its_path(copy):
    here, there = custom(copy, "own/here.py"), custom(copy, "own/there.py")
    assert (here.custom_source, there.custom_source) == ("own/here.py", "own/there.py")
    assert here.digest == there.digest
    assert custom(copy, "own/here.py", "class Halved: 'edited'\n").digest != here.digest
    assert custom(copy, "own/here.py", arguments="factor: 0.25").digest != here.digest


def test_an_argument_that_is_null_is_an_argument(copy):
    """The class takes None where it would have taken its default: other numbers, so another run."""
    assert (
        custom(copy, "own/here.py", arguments="limit: null").digest != custom(copy, "own/here.py", arguments="").digest
    )


def test_a_custom_shortcut_without_its_file(copy):
    custom(copy, "own/here.py")
    (copy.root / "own/here.py").unlink()
    with pytest.raises(UserError, match=r"own\.network\.shortcut\.source: no file own/here\.py: create it"):
        load(copy.root).resolve("own")


def test_the_digest_is_the_same_in_other_processes(copy):
    for hashseed in ("1", "2"):
        answer = copy.command("resolve", "cifar10-resnet110-exclusive-gate-b6", PYTHONHASHSEED=hashseed)
        assert json.loads(answer.stdout)["digest"] == PROJECT.resolve("cifar10-resnet110-exclusive-gate-b6").digest


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("cifar10-resnet110", "28d8231b0f87"),
        ("cifar10-resnet1001-full-pre-activation-released-code", "28abcd9b6ec3"),
    ],
)
def test_pinned_digests(name, digest):
    """A digest that changes makes every record of the experiment stale: its cells say "not run" until it is trained
    again, 27 hours of GPU for ResNet-1001. If that is not meant, find what changed (a default, a key's name or form,
    the canonical text). If it is meant, because runs now give other numbers (then raise `NUMERICS` in
    records/experiment.py) or because a recipe was corrected, put the new digest here.
    """
    assert PROJECT.resolve(name).digest == digest


@pytest.mark.parametrize(
    ("scale", "count", "expected"),
    [
        ("paper", 233, "89d3eb919bd8d704f4c0550ddd441bf3575ede85712af9e39bfe7ea3967b9747"),
        ("weekend", 39, "b291f03b634cc3abcd9588bd4302ecbf2672fbd48f4246e6a58dde814c313058"),
        ("overnight", 96, "73a5faaa541db36d63ada8e4f145661d990fcd8c3726ef0588d4c65cdd686e86"),
        ("demo", 117, "d58fb14bff37f5d48f16ddce7b95b4af4cea86a0dfa4fe13c8b6dff8ea49071c"),
    ],
)
def test_no_digest_changes(scale, count, expected):
    """All digests of a scale, in all arithmetics and of detections, hashed together; see above if it changes.

    An experiment that is added, renamed or removed changes it too: then all digests of before must still be there.
    """
    resolved = filter(None, (PROJECT.resolve(name, scale) for name in PROJECT.names))
    lines = sorted(f"{one.folder} {one.network_digest}" for experiment in resolved for one in experiment.alternatives)
    assert len(lines) == count
    assert sha256("\n".join(lines).encode()) == expected


def test_the_digest_changes_with_the_numerics_of_the_code(monkeypatch):
    experiment = PROJECT.resolve("cifar10-resnet110")
    before = experiment.digest
    monkeypatch.setattr("identity_mappings.records.experiment.NUMERICS", 99)
    assert replace(experiment).digest != before


@pytest.mark.parametrize(("name", "scale"), VARIED)
def test_a_resolved_file_comes_back_as_it_was(tmp_path, name, scale):
    experiment = PROJECT.resolve(name, scale)
    experiment.save(tmp_path / "resolved.json")
    assert Experiment.load(tmp_path / "resolved.json") == experiment
    assert json.loads((tmp_path / "resolved.json").read_text())["digest"] == experiment.digest


def test_an_edited_resolved_file_is_refused(tmp_path):
    path = tmp_path / "resolved.json"
    PROJECT.resolve("cifar10-resnet20").save(path)
    path.write_text(path.read_text().replace('"momentum": 0.9', '"momentum": 0.8'))
    with pytest.raises(UserError, match=r"it was edited .*change params/ and resolve it again") as caught:
        Experiment.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def resolved(**changes: Any) -> str:
    return json.dumps({**PROJECT.resolve("cifar10-resnet20").as_json(), **changes})


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "momentum: 0.9",
        "[]",
        "null",
        '{"experiment": "cifar10-resnet20"}',
        resolved(parameters=[]),
        resolved(parameters={"recipe": float("nan")}),
        b"\xff",
    ],
    ids=["missing", "empty", "YAML", "list", "null", "no parameters", "parameters as a list", "NaN", "no text"],
)
def test_what_is_no_resolved_file_is_refused(tmp_path, content):
    path = tmp_path / "resolved.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="make it with `identity-mappings resolve`") as caught:
        Experiment.load(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def cells_of(number: int) -> list[tuple[str, str, list[str]]]:
    """(row, column, experiments) of a table, as its file has them."""
    table = yaml.safe_load((ROOT / f"params/tables/he2016-table{number}.yaml").read_text())
    return [
        (row["name"], column, cell["experiments"])
        for row in table["rows"]
        for column, cell in row["cells"].items()
        if not cell.get("quoted") and cell.get("metric") != "parameters"
    ]


def test_what_several_tables_share_is_wanted_once():
    """Every CIFAR network that a table or a figure of either paper shows; ImageNet's: test_both_papers."""
    cells = [name for number in (1, 2, 3, 4) for _, _, names in cells_of(number) for name in names]
    assert cells.count("cifar10-resnet110") == 4
    of_he2015 = [f"cifar10-resnet{depth}" for depth in (20, 32, 44, 56)]  # Table 6; 110 and 1202: he2016 has them too
    of_figures = [f"cifar10-plain{depth}" for depth in (20, 32, 44, 56, 110)]
    wanted = [e.name for e in PROJECT.list_to_train("paper") if e.parameters["dataset"]["name"] != "imagenet"]
    own = ["cifar10-resnet110-convolutional-gate"]
    detections = [f"{data}-{network}" for data in ("voc", "coco") for network in ("vgg16", "resnet101")]
    choices = [f"cifar10-resnet110-exclusive-gate-b{bias}-split" for bias in range(11)]
    assert sorted(wanted) == sorted({*cells, *of_he2015, *of_figures, *own, *detections, *choices})


def test_runs_begin_with_seed_0_of_all_experiments_in_the_order_of_the_scale(copy):
    order = "order: [cifar10-resnet110-dropout, cifar10-resnet56]"
    copy.edit("params/scales/tiny.yaml", "runs: 1", f"runs: 2\n{order}")
    runs = [(experiment.name, seed) for experiment, seed in load(copy.root).list_runs_to_train("tiny")]
    names = ["cifar10-resnet110-dropout", "cifar10-resnet110", "cifar10-resnet110-exclusive-gate-b6"]
    assert runs == [(name, seed) for seed in (0, 1) for name in names], "an order wants nothing more"


def test_at_the_papers_scale_table_1_comes_before_table_2_and_both_before_1001_layers():
    names = [experiment.name for experiment, seed in PROJECT.list_runs_to_train("paper") if seed == 0]
    places = {number: [names.index(name) for _, _, found in cells_of(number) for name in found] for number in (1, 2)}
    rows = [min(names.index(name) for name in found) for _, _, found in cells_of(1)]
    assert max(rows) < min(place for place in places[2] if place not in places[1])
    assert max(places[2]) < min(place for place, name in enumerate(names) if "1001" in name or "1202" in name)


def test_what_only_a_figure_shows_is_wanted_too(copy):
    before = [experiment.name for experiment in load(copy.root).list_to_train("paper")]
    with (copy.root / "params/experiments/cifar10.yaml").open("a") as file:
        file.write("own: {dataset: cifar10, recipe: he2016-cifar, network: {depth: 26}}\n")
    assert [experiment.name for experiment in load(copy.root).list_to_train("paper")] == before
    copy.edit("params/figures/he2016-figure6.yaml", "experiment: cifar10-resnet164}", "experiment: own}")
    assert "own" in [experiment.name for experiment in load(copy.root).list_to_train("paper")]


def test_a_scale_may_name_what_it_wants(copy):
    copy.edit("params/scales/paper.yaml", "published: true", "published: true\nexperiments: [cifar10-resnet20]")
    assert [experiment.name for experiment in load(copy.root).list_to_train("paper")] == ["cifar10-resnet20"]


def test_the_demo_has_all_of_tables_1_and_2():
    """But for the gates 1 to 5 of the row "b_g = 0 to -5", whose first one stands for the row."""
    wanted = {experiment.name for experiment in PROJECT.list_to_train("demo")}
    left_out = {f"cifar10-resnet110-exclusive-gate-b{bias}" for bias in range(1, 6)}
    names = {name for number in (1, 2) for _, _, names in cells_of(number) for name in names}
    assert len(names) == 26
    assert names - wanted == left_out


def test_the_demo_has_table_3_on_cifar10_and_says_that_it_lacks_the_rest():
    for row, column, [name] in cells_of(3):
        assert (PROJECT.resolve(name, "demo") is not None) == row.startswith("CIFAR-10,"), (row, column)


def test_the_demo_changes_data_depth_and_schedule_only_as_its_file_says():
    paper, demo = (
        PROJECT.resolve("cifar10-resnet110-exclusive-gate-b6", scale).parameters for scale in ("paper", "demo")
    )
    assert demo["dataset"]["name"] == "digits"
    assert {key for key in paper["network"] if paper["network"][key] != demo["network"][key]} == {"depth"}
    overlay = yaml.safe_load((ROOT / "params/scales/demo.yaml").read_text())["overlay"]["recipe"]
    assert {key for key in paper["recipe"] if paper["recipe"][key] != demo["recipe"][key]} <= set(overlay)
    assert demo["recipe"]["learning_rate"] == [list(pair) for pair in overlay["learning_rate"].items()]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet"])
def test_a_dataset_has_one_hash_everywhere(name):
    """params/datasets.yaml brings it into the digests and to the reader, data.dvc to DVC."""
    pinned = {Path(out["path"]).name: out["md5"] for out in yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]}
    assert set(pinned) == {"cifar10", "cifar100", "imagenet"}
    assert PROJECT.datasets[name].md5 == pinned[name]
    experiment = f"{name}-resnet{152 if name == 'imagenet' else 164}"
    assert PROJECT.resolve(experiment).parameters["dataset"]["md5"] == pinned[name]
