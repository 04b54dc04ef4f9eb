"""params/ loads, and each mistake in it is one line that names file, key and cure."""

import re
import subprocess
from pathlib import Path

import pytest

from identity_mappings.errors import UserError
from identity_mappings.parameters import load

ROOT = Path(__file__).parents[2]
RECIPE, CODE = "recipes/he2016-cifar.yaml", "recipes/released-code.yaml"
CIFAR10, CIFAR100 = "experiments/cifar10.yaml", "experiments/cifar100.yaml"
DEMO, TINY = "scales/demo.yaml", "scales/tiny.yaml"  # tiny: of tests/conftest.py, with numbers that stay
TABLE1, TABLE2, TABLE4 = "tables/he2016-table1.yaml", "tables/he2016-table2.yaml", "tables/he2016-table4.yaml"
FIGURE = "figures/he2016-figure1.yaml"
RESNET20 = "cifar10-resnet20: {dataset: cifar10, recipe: he2015-cifar, network: {depth: 20}}"
LINE = (ROOT / "params" / CIFAR10).read_text().split(RESNET20)[0].count("\n") + 1
# Words of the libraries underneath, which tell the writer of a YAML file nothing.
JARGON = re.compile(
    r"Value error|input tag|extract tag|discriminator|instance of|object to extract|NoneType|\bNone\b|\.the file"
)


def replaced(old: str, new: str) -> str:
    """The line of ResNet-20 with one mistake."""
    assert RESNET20.count(old) == 1
    return RESNET20.replace(old, new)


def message_of(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(root)
    return str(caught.value)


def edit(copy, file: str, old: str, new: str) -> None:
    assert (copy.root / "params" / file).read_text().count(old) == 1, f"one mistake at a time: {old!r}"
    copy.edit(f"params/{file}", old, new)


def check(copy, file: str, key: str, cure: str) -> None:
    path, colon, message = message_of(copy.root).partition(": ")
    assert path + colon == f"{copy.root / 'params' / file}: ", message
    assert "\n" not in message
    assert key in message, message
    assert re.search(cure, message), message
    assert not JARGON.search(message), message


def test_the_parameters_of_the_checkout_load():
    project = load(ROOT)
    assert set(project.scales) == {"paper", "weekend", "overnight", "demo"}
    assert set(project.recipes) == {
        "he2015-cifar", "he2015-imagenet", "he2016-cifar", "he2016-cifar-split", "he2016-imagenet", "released-code",
        "released-code-imagenet", "vgg-imagenet",
    }  # fmt: skip
    assert set(project.tables) == {
        *(f"he2015-table{number}" for number in range(1, 9)),
        *(f"he2016-table{number}" for number in range(1, 6)),
        "he2015-text",
        "he2016-text",
        "he2016-text-facts",
        "own-figure6",
        "own-gates",
    }
    assert set(project.figures) == {
        "he2015-figure6", "he2015-figure7", *(f"he2016-figure{number}" for number in range(1, 7)), "own-signals",
    }  # fmt: skip


@pytest.mark.parametrize("scale", ["paper", "overnight", "demo"])
def test_every_experiment_resolves(scale):
    """At the papers' own sizes all of them; a demonstration has some, all on its own data."""
    project = load(ROOT)
    resolved = {name: project.resolve(name, scale) for name in project.experiments}
    there = [experiment for experiment in resolved.values() if experiment]
    assert len(there) == len(resolved) if scale == "paper" else 20 < len(there) < len(resolved)
    assert len({experiment.digest for experiment in there}) == len(there), "two names for one experiment"
    if scale == "overnight":
        assert {experiment.parameters["dataset"]["name"] for experiment in there} == {"cifar10-half"}
        depths = {experiment.name: experiment.parameters["network"]["depth"] for experiment in there}
        assert all(str(depth) in name for name, depth in depths.items()), "the papers' own"
    if scale == "demo":
        assert {experiment.parameters["dataset"]["name"] for experiment in there} == {"digits", "imagenet-small"}


MISSPELT = {
    "recipe": (RECIPE, "momentum: 0.9", "momentun: 0.9", "momentun", "momentum"),
    "optional key of a recipe": (CODE, "channel_mean: [", "chanel_mean: [", "chanel_mean", "channel_mean"),
    "experiment": (
        CIFAR10, RESNET20, replaced("network:", "netwerk:"), "cifar10-resnet20.netwerk", "network"
    ),
    "network": (CIFAR10, RESNET20, replaced("depth", "depht"), "cifar10-resnet20.network.depht", "depth"),
    "optional key of a network": (
        CIFAR10, RESNET20, replaced("depth: 20", "depth: 20, unti: basic"), "cifar10-resnet20.network.unti", "unit"
    ),
    "shortcut": (
        CIFAR10, "exclusive-gate, gate_bias: -6", "exclusive-gate, gate_bais: -6",
        "cifar10-resnet110-exclusive-gate-b6.network.shortcut.gate_bais", "gate_bias",
    ),
    "scale": (DEMO, "leave_out:", "leave_uot:", "leave_uot", "leave_out"),
    "overlay": (DEMO, "  depths:", "  dephts:", "overlay.dephts", "depths"),
    "recipe of an overlay": (
        DEMO, "evaluate_every: 40\n    log_every", "evaluate_evry: 40\n    log_every", "evaluate_evry", "evaluate_every"
    ),
    "a recipe's keys in an overlay": (
        DEMO, "samples: 8\n      crop_size: 32\n      shorter", "samples: 8\n      crop_sise: 32\n      shorter",
        "crop_sise", "crop_size"
    ),
    "recipes of an overlay": (DEMO, "he2016-imagenet: *", "he2016-imagnet: *", "he2016-imagnet", "he2016-imagenet"),
    "table": (TABLE1, "columns:", "colums:", "colums", "columns"),
    "row of a table": (
        TABLE2, "name: original Residual Unit", "nmae: original Residual Unit", "rows.0.nmae", "name"
    ),
    "cell of a table": (
        TABLE1, "published_deviation", "published_deviaton", "rows.0.cells.error.published_deviaton",
        "published_deviation",
    ),
    "dataset": ("datasets.yaml", "size: 8", "sise: 8", "digits.sise", "size"),
    "reporting": ("reporting.yaml", "agrees_within", "agree_within", "agree_within", "agrees_within"),
    "figure": (FIGURE, "panels:", "pannels:", "pannels", "panels"),
    "curve of a figure": (
        FIGURE, "unit, experiment: cifar10-resnet1001}", "unit, experimnt: cifar10-resnet1001}",
        "panels.0.curves.0.experimnt", "experiment",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "key", "meant"), MISSPELT.values(), ids=MISSPELT)
def test_misspelt_key(copy, file, old, new, key, meant):
    edit(copy, file, old, new)
    check(copy, file, key, f"did you mean '{meant}'")


WRONG_TYPE = {
    "quoted number": (RECIPE, "momentum: 0.9", 'momentum: "0.9"', "momentum", 'number, not the text "0.9"'),
    "1e-4, which YAML reads as text": (
        RECIPE, "weight_decay: 0.0001", "weight_decay: 1e-4", "weight_decay", 'number, not the text "1e-4"'
    ),
    "1e-1 in the schedule": (RECIPE, "400: 0.1", "400: 1e-1", "learning_rate.400", 'number, not the text "1e-1"'),
    "float for int": (RECIPE, "batch_size: 128", "batch_size: 128.0", "batch_size", "integer"),
    "bool for int": (RECIPE, "batch_size: 128", "batch_size: true", "batch_size", "integer"),
    "bool for number": (RECIPE, "momentum: 0.9", "momentum: true", "momentum", "number"),
    "number for bool": (RECIPE, "nesterov: false", "nesterov: 0", "nesterov", "boolean|true or false"),
    "text for bool": (DEMO, "published: false", 'published: "false"', "published", "boolean|true or false"),
    "text for a list": (RECIPE, "[convolution, linear]", "linear", "weight_decay_on", "list"),
    "text for a shortcut": (
        CIFAR10, "{kind: convolution}", "convolution", "cifar10-resnet110-convolution.network.shortcut", "kind|mapping"
    ),
    "quoted depth": (
        CIFAR10, RESNET20, replaced("depth: 20", 'depth: "20"'), "cifar10-resnet20.network.depth",
        'integer, not the text "20"',
    ),
    "text in an overlay": (
        TINY, "iterations: 8\n", 'iterations: "8"\n', "overlay.recipe.iterations", 'integer, not the text "8"'
    ),
    "no name": (CIFAR10, "cifar10-resnet20:", "CIFAR10_resnet20:", "CIFAR10_resnet20", "a-z0-9"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "key", "cure"), WRONG_TYPE.values(), ids=WRONG_TYPE)
def test_wrong_type(copy, file, old, new, key, cure):
    edit(copy, file, old, new)
    check(copy, file, key, cure)


A_WORD_FOR_A_NUMBER = {
    "ten": (TINY, "log_every: 2", "log_every: ten", "log_every"),
    "zero as a key": (RECIPE, "  0: 0.01", "  zero: 0.01", "learning_rate.zero"),
    "8x8": ("datasets.yaml", "size: 8", "size: 8x8", "digits.size"),
    "20 %": ("reporting.yaml", "cifar10: 20.0", "cifar10: 20 %", "fail_above.cifar10"),
}


@pytest.mark.parametrize(("file", "old", "new", "key"), A_WORD_FOR_A_NUMBER.values(), ids=A_WORD_FOR_A_NUMBER)
def test_a_word_for_a_number(copy, file, old, new, key):
    edit(copy, file, old, new)
    check(copy, file, key, "integer|number")


MISSING = {
    "recipe": (RECIPE, "momentum: 0.9\n", "", "momentum"),
    "network": (CIFAR10, RESNET20, replaced("depth: 20", ""), "cifar10-resnet20.network.depth"),
    "shortcut": (
        CIFAR10, "dropout, ratio: 0.5}", "dropout}", "cifar10-resnet110-dropout.network.shortcut.ratio"
    ),
    "kind of a shortcut": (
        CIFAR10, "{kind: convolution}", "{knid: convolution}", "cifar10-resnet110-convolution.network.shortcut.kind"
    ),
    "cell": (TABLE1, "published: 6.61, ", "", "rows.0.cells.error.published"),
    "scale": (DEMO, "runs: 1\n", "", "runs"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "key"), MISSING.values(), ids=MISSING)
def test_missing_key(copy, file, old, new, key):
    edit(copy, file, old, new)
    check(copy, file, f"{key}: ", "missing: add it")


UNKNOWN_VALUE = {
    "momentum_form": (RECIPE, "form: caffe", "form: cafe", "momentum_form", "'caffe' or 'torch'"),
    "weight_decay_on": (RECIPE, "[convolution, linear]", "[convolution, liner]", "weight_decay_on.1", "'linear'"),
    "activation": (
        CIFAR10, RESNET20, replaced("depth: 20", "depth: 20, activation: preactivation"),
        "cifar10-resnet20.network.activation", "'full-pre-activation'",
    ),
    "kind of a shortcut": (
        CIFAR10, "{kind: convolution}", "{kind: convolutoin}",
        "cifar10-resnet110-convolution.network.shortcut", "'kind' .* 'convolution'",
    ),
    "device": (DEMO, "device: cpu", "device: tpu", "device", "'gpu' or 'cpu'"),
    "unit of an overlay": (DEMO, "    single:", "    singel:", "overlay.depths", "'single'"),
    "metric": (
        TABLE4, "4.89±0.14\n        metric: test error %, mean", "4.89±0.14\n        metric: test error, mean",
        "rows.10.cells.mean.metric", "'test error %'",
    ),
    "below a bound": (RECIPE, "batch_size: 128", "batch_size: -128", "batch_size", "greater than 0"),
    "above a bound": (
        CIFAR10, "ratio: 0.5}", "ratio: 1}", "cifar10-resnet110-dropout.network.shortcut.ratio", "less than 1"
    ),
    "folder of results": (DEMO, "results: results/demo", "results: /tmp/demo", "results", "pattern|results/"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "key", "cure"), UNKNOWN_VALUE.values(), ids=UNKNOWN_VALUE)
def test_unknown_value(copy, file, old, new, key, cure):
    edit(copy, file, old, new)
    check(copy, file, key, cure)


@pytest.mark.parametrize(
    ("file", "old", "new", "key"),
    [
        (TABLE1, "published: 12.35", 'published: "12,35"', "rows.3.cells.error.published"),
        (TABLE1, "published: 12.35", "published: failed", "rows.3.cells.error.published"),
        (TABLE4, "published: 4.89±0.14", "published: 4.89+-0.14", "rows.10.cells.mean.published"),
    ],
    ids=["comma", "failed", "+-"],
)
def test_a_published_value_is_a_number_fail_or_a_mean_with_its_deviation(copy, file, old, new, key):
    """Any other text breaks the verdict on the first record there is."""
    edit(copy, file, old, new)
    check(copy, file, key, "number|fail|±")


UNKNOWN_NAME = {
    "experiment in a table": (
        TABLE1, "experiments: [cifar10-resnet110]", "experiments: [cifar10-resnt110]",
        "rows.0.cells.error.experiments", "did you mean 'cifar10-resnet110'",
    ),
    "experiment in a figure": (
        FIGURE, "unit, experiment: cifar10-resnet1001}", "unit, experiment: cifar10-resnt1001}",
        "panels.0.curves.0.experiment", "did you mean 'cifar10-resnet1001'",
    ),
    "dataset of an experiment": (
        CIFAR10, RESNET20, replaced("dataset: cifar10", "dataset: cifr10"),
        "cifar10-resnet20.dataset", "did you mean 'cifar10'",
    ),
    "recipe of an experiment": (
        CIFAR10, RESNET20, replaced("recipe: he2015-cifar", "recipe: he2015-cifra"),
        "cifar10-resnet20.recipe", "did you mean 'he2015-cifar'",
    ),
    "dataset of an overlay": (
        DEMO, "cifar10: digits", "cifar10: digit", "overlay.datasets.cifar10", "did you mean 'digits'"
    ),
    "replaced dataset": (
        DEMO, "cifar10: digits", "cifar01: digits", "overlay.datasets", "did you mean 'cifar10'"
    ),
    "experiment that is left out": (
        DEMO, "exclusive-gate-b1", "exclusive-gat-b1", "leave_out", "did you mean 'cifar10-resnet110-exclusive-gate-b1'"
    ),
    "dataset without a prior spread": (
        "reporting.yaml", "  cifar100: 0.35\n", "", "prior_deviation", "cifar100"
    ),
    "dataset without a resolution": (
        "reporting.yaml", "  cifar100: 1.0\n", "", "resolution", "cifar100"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "key", "cure"), UNKNOWN_NAME.values(), ids=UNKNOWN_NAME)
def test_unknown_name(copy, file, old, new, key, cure):
    edit(copy, file, old, new)
    check(copy, file, key, cure)


def test_unknown_experiment_and_scale_of_a_call():
    project = load(ROOT)
    with pytest.raises(UserError, match=r"params/experiments: .*'cifar10-resnt20': did you mean 'cifar10-resnet20'"):
        project.resolve("cifar10-resnt20")
    with pytest.raises(UserError, match=r"params/scales: .*'dmeo': did you mean 'demo'"):
        project.resolve("cifar10-resnet20", "dmeo")


IMPOSSIBLE = {
    "6n+2": (
        CIFAR10, RESNET20, replaced("depth: 20", "depth: 21"), "cifar10-resnet20.network",
        r"21 is not 6n\+2.*take 20 or 26",
    ),
    "9n+2": (
        CIFAR100, "cifar100-resnet164: {dataset: cifar100, recipe: he2016-cifar, network: {depth: 164",
        "cifar100-resnet164: {dataset: cifar100, recipe: he2016-cifar, network: {depth: 163",
        "cifar100-resnet164.network", r"163 is not 9n\+2.*take 155 or 164",
    ),
    "too shallow": (
        CIFAR10, RESNET20, replaced("depth: 20", "depth: 2"), "cifar10-resnet20.network", r"2 is not 6n\+2.*take 8"
    ),
    "6n+2 in an overlay": (
        TINY, "basic: {110: 8", "basic: {110: 9", "overlay.depths.basic", r"9 is not 6n\+2.*take 8 or 14"
    ),
    "9n+2 in an overlay": (
        DEMO, "bottleneck: {164: 29", "bottleneck: {164: 30", "overlay.depths.bottleneck",
        r"30 is not 9n\+2.*take 29 or 38",
    ),
    "no first learning rate": (RECIPE, "  0: 0.01", "  1: 0.01", "learning_rate", "add the line '0: RATE'"),
    "unordered learning rates": (
        RECIPE, "  400: 0.1\n  32000: 0.01\n", "  32000: 0.01\n  400: 0.1\n", "learning_rate", "sort"
    ),
    "batch norm's share": (RECIPE, "samples: 64", "samples: 60", "batch_norm_samples", "60 does not divide .* 128"),
    "rows of the curve": (RECIPE, "log_every: 100", "log_every: 300", "log_every", "300 does not divide .* 500"),
    "rows of the curve in an overlay": (
        TINY, "log_every: 2", "log_every: 3", "overlay.recipe", "log_every 3 does not divide .* 4"
    ),
    "no channel mean": (
        RECIPE, "per-pixel-mean", "channel-mean-and-deviation", "channel-mean-and-deviation",
        "needs channel_mean and channel_deviation",
    ),
    "verdict's bounds": ("reporting.yaml", "differs_beyond: 3.0", "differs_beyond: 1.0", "differs_beyond", "below"),
    "cell without a source": (
        TABLE1, "network: ResNet-110, experiments: [cifar10-resnet110]", "network: ResNet-110",
        "rows.0.cells.error", "quoted: true",
    ),
    "cell that no text names": (
        TABLE1, '"{error}", a plain net', '"{eror}", a plain net', "constant scaling 0, 1", "must stand in both"
    ),
    "too few texts": (TABLE1, "columns: [case, Fig.,", "columns: [case,", "row 'original'", "6 texts for 5 columns"),
    "two rows of one name": (TABLE1, "name: constant scaling 0, 1", "name: original", "row", "same name"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "key", "cure"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_values_that_do_not_fit_together(copy, file, old, new, key, cure):
    edit(copy, file, old, new)
    check(copy, file, key, cure)


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        (RECIPE, "momentum: 0.9", "momentum: 0.9\nmomentum: 0.8", "'momentum' is given twice"),
        (RECIPE, "  400: 0.1", "  400: 0.1\n  400: 0.2", "400 is given twice"),
        (CIFAR10, "cifar10-resnet32:", "cifar10-resnet20:", "'cifar10-resnet20' is given twice"),
        (CIFAR10, RESNET20, RESNET20[:-1], f"line {LINE + 1}: not valid YAML"),
        (RECIPE, "\nflip", "\n\tflip", "line 20: not valid YAML"),
        (RECIPE, "momentum: 0.9", "momentum: 0.9\n? [momentum]\n: 0.8", "not valid YAML"),
        (RECIPE, "momentum: 0.9", "momentum: !!python/name:os.system", "line 12: not valid YAML"),
    ],
    ids=["key twice", "nested key twice", "experiment twice", "bracket", "tab", "list as a key", "Python object"],
)
def test_invalid_yaml(copy, file, old, new, problem):
    edit(copy, file, old, new)
    check(copy, file, "YAML", problem)


@pytest.mark.parametrize("content", [b"# nothing yet\n", b"- a\n- b\n"], ids=["empty", "list"])
@pytest.mark.parametrize("file", ["datasets.yaml", "reporting.yaml", RECIPE, CIFAR10, DEMO, TABLE1, FIGURE])
def test_a_file_that_is_no_mapping(copy, file, content):
    (copy.root / "params" / file).write_bytes(content)
    check(copy, file, "", "empty|key|mapping|restore|write|change|add")


def test_a_file_that_is_no_text(copy):
    (copy.root / "params" / RECIPE).write_bytes(b"momentum: \xff\n")
    check(copy, RECIPE, "", "utf-8|UTF-8")


@pytest.mark.parametrize("file", ["datasets.yaml", "reporting.yaml"])
def test_a_missing_file(copy, file):
    (copy.root / "params" / file).unlink()
    check(copy, file, "", "restore it")


def test_a_missing_recipe_names_who_wants_it(copy):
    (copy.root / "params" / CODE).unlink()
    check(copy, CIFAR10, "released-code.recipe: ", "unknown name 'released-code': did you mean|known: he2016-cifar")


def test_a_missing_folder(tmp_path):
    assert re.fullmatch(f"no folder params/ in {re.escape(str(tmp_path))}: call this from .*", message_of(tmp_path))


def test_one_experiment_in_two_files(copy):
    with (copy.root / "params" / CIFAR100).open("a") as file:
        file.write(RESNET20 + "\n")
    check(copy, CIFAR100, "cifar10-resnet20: ", "another file .*rename or remove one")


@pytest.mark.parametrize(
    ("command", "file", "old", "new", "words"),
    [
        (["resolve", "cifar10-resnet20"], RECIPE, "form: caffe", "form: cafe", f"params/{RECIPE}: momentum_form: "),
        (["resolve", "cifar10-resnet20"], CIFAR10, RESNET20, RESNET20[:-1], f"params/{CIFAR10}: line "),
        (["resolve", "cifar10-resnt20"], RECIPE, "\n", "\n", "did you mean 'cifar10-resnet20'"),
        (["tables", "--scale", "papr"], RECIPE, "\n", "\n", "did you mean 'paper'"),
    ],
)
def test_the_command_line_prints_one_line_and_no_traceback(copy, command, file, old, new, words):
    copy.edit(f"params/{file}", old, new)
    call = ["identity-mappings", *command]
    environment = copy.forking_environment
    answer = subprocess.run(call, cwd=copy.root, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stdout == ""
    [line] = answer.stderr.splitlines()
    assert line.startswith("identity-mappings: ") and words in line


def test_snakemake_prints_the_same_line_and_no_traceback(copy):
    edit(copy, RECIPE, "form: caffe", "form: cafe")
    answer = copy.snakemake("-n", cores=1)
    assert answer.returncode != 0
    lines = [line for line in answer.stdout.splitlines() if "workflow specific profile" not in line]
    assert len(lines) == 1, answer.stdout
    assert lines[0] == f"identity-mappings: {message_of(copy.root)}".replace(f"{copy.root}/", "")
