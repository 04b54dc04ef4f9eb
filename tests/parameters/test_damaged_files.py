"""Parameter files that are damaged, in whatever way: one line with file, key and cure, and never a traceback."""

import re
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity_mappings.errors import UserError
from identity_mappings.parameters import load
from identity_mappings.parameters.load import read
from identity_mappings.parameters.yaml_file import read_yaml

ROOT = Path(__file__).parents[2]
KINDS = {"recipes": "recipe", "experiments": "experiments", "scales": "scale", "tables": "table", "figures": "figure"}
FILES = {
    path: KINDS.get(path.parent.name, path.stem)
    for path in sorted((ROOT / "params").rglob("*.yaml"))
}  # fmt: skip


@pytest.fixture
def params(tmp_path) -> Path:
    shutil.copytree(ROOT / "params", tmp_path / "params")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path / "params"


def message_of(root: Path) -> str:
    begin = time.monotonic()
    with pytest.raises(UserError) as caught:
        load(root)
    assert time.monotonic() - begin < 20
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(root)), message
    return message


SCALARS = {
    "!!float x": "'x' cannot be read as float",
    "!!int abc": "'abc' cannot be read as int",
    "!!bool xyz": "'xyz' cannot be read as bool",
    "!!timestamp z": "'z' cannot be read as timestamp",
    "!!binary é": "failed to convert base64 data",
    "!!python/object/apply:os.system [true]": "constructor for the tag",
    "2001-99-99": "must be a number, not the text '2001-99-99'",
    "2001-01-01": "must be a number, not the text '2001-01-01'",
    "9" * 5000: r"'9{20}\.\.\. \(5000 characters\)' cannot be read as int",
    ".inf": "finite number, not inf",
    "-.inf": "finite number, not -inf",
    ".nan": "finite number, not nan",
    "1.0e+400": "finite number",
    "1:30": "base 60",
    "1:30.5": "base 60",
    "0o10": "without leading zeros",
    "010": "without leading zeros",
    "1_0": "without underscores",
    "-0.1": "greater than or equal to 0",
    "1": "less than 1",
    "1.5": "less than 1",
    "true": "must be a number, not true",
    "null": "must be a number, not nothing",
    "yes": "must be a number, not the text 'yes'",
    "[0.9]": "must be a number, not a list",
    "{a: 0.9}": "must be a number, not a mapping",
    "&a [*a]": "an alias stands inside of what it names",
    "*nothing": "undefined alias",
    "'0.9'": "without quotes",
    "[" * 200 + "]" * 200: "nested too deep",
    "[" * 100_000: "nested too deep",
    "0.9\n  x: 1": "mapping values are not allowed",
    "0.9\nmomentum: 0.9": "the key 'momentum' is given twice",
    "0.9\n? [a, b]\n: 1": "a key must be a word",
    "0.9\n7: 1": "7: must be a text, not 7: change",
    "0.9\nnull: 1": "null: must be a text, not nothing: change",
    "0.9\n--- {}": "not valid YAML",
    "0.9\n\tx: 1": "not valid YAML",
    "\x07": "control characters|special characters",
    "@": "cannot start any token",
    '"': "not valid YAML",
}


@pytest.mark.parametrize(("scalar", "problem"), SCALARS.items(), ids=[ascii(name)[:30] for name in SCALARS])
def test_a_value_that_cannot_be_a_momentum(params, scalar, problem):
    path = params / "recipes/he2016-cifar.yaml"
    text = path.read_text()
    assert text.count("momentum: 0.9\n") == 1
    path.write_text(text.replace("momentum: 0.9\n", f"momentum: {scalar}\n"))
    assert re.search(problem, message_of(params.parent)), message_of(params.parent)


NONSENSE = [
    ("reporting.yaml", "cifar10: 20.0", "cifar10: -1", "fail_above.cifar10: should be greater than 0, not -1"),
    ("reporting.yaml", "cifar10: 20.0", "cifar10: 101", "less than or equal to 100"),
    ("reporting.yaml", "imagenet: 0.15", "imagenet: .inf", "prior_deviation.imagenet: should be a finite number"),
    ("reporting.yaml", "imagenet: 0.15", "imagenet: 0", "prior_deviation.imagenet: should be greater than 0"),
    ("reporting.yaml", "differs_beyond: 3.0", "differs_beyond: .nan", "differs_beyond: should be a finite number"),
    ("recipes/he2016-cifar.yaml", "400: 0.1", "400: 1:30", r"learning_rate.400: .*base 60"),
    ("recipes/he2016-cifar.yaml", "400: 0.1", "400: .inf", "learning_rate.400: should be a finite number"),
    ("recipes/he2016-cifar.yaml", "400: 0.1", "400: 0", "learning_rate.400: should be greater than 0"),
    ("recipes/he2016-cifar.yaml", "400: 0.1", "4:00: 0.1", "learning_rate.4:00: must be an integer"),
    ("recipes/he2016-cifar.yaml", "weight_decay: 0.0001", "weight_decay: 2", "weight_decay: should be less than"),
    ("recipes/he2016-cifar.yaml", "iterations: 64000", "iterations: 0", "iterations: should be greater than 0"),
    ("recipes/he2016-cifar.yaml", "iterations: 64000", f"iterations: {10**12}", "iterations: should be less than"),
    ("recipes/he2016-cifar.yaml", "cpu_threads: 2", "cpu_threads: -2", "cpu_threads: should be greater than 0"),
    ("tables/he2016-table1.yaml", "published: 6.61", "published: -5", "-5.* is no error in %"),
    ("tables/he2016-table1.yaml", "published: 6.61", "published: 661", "661.* is no error in %"),
    ("tables/he2016-table1.yaml", "published_deviation: 0.16", "published_deviation: .nan", "finite number"),
    ("scales/demo.yaml", "    iterations: 140", "    iterations: -.inf", "overlay.recipe.iterations: must be an int"),
    ("scales/demo.yaml", "runs: 1", "runs: 1000000", "runs: should be less than or equal to 1000"),
    ("datasets.yaml", "size: 8\n", "size: 0\n", "digits.size: should be greater than 0"),
    ("datasets.yaml", "block_mean: 2", "block_mean: 1", "made_from.block_mean: should be greater than or equal to 2"),
    ("experiments/cifar10.yaml", "ratio: 0.5", "ratio: 1", "shortcut.ratio: should be less than 1"),
    ("experiments/cifar10.yaml", "gate_bias: -7", "gate_bias: -.inf", "gate_bias: should be a finite number"),
    ("experiments/cifar10.yaml", "{gate_bias: -6}}", "{gate_bias: .nan}}", "arguments: must be texts, finite"),
    ("figures/he2015-figure6.yaml", "dashed: training error", "error_limit: .inf", "error_limit: should be a finite"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "problem"), NONSENSE, ids=[f"{row[0]}, {row[2]}" for row in NONSENSE])
def test_a_number_outside_of_its_sense(params, file, old, new, problem):
    path = params / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    message = message_of(params.parent)
    assert message.startswith(f"{path}: ") and re.search(problem, message), message


CONTENTS = {
    "not UTF-8": (b"momentum: \xff\n", "can't decode byte"),
    "UTF-16": ("momentum: 0.9".encode("utf-16"), "can't decode byte"),
    "empty": (b"", "it is empty"),
    "a list": (b"- momentum\n", "must be a mapping"),
    "a text": (b"momentum", "must be a mapping"),
    "a number": (b"0.9", "must be a mapping"),
    "zeros": (b"\0" * 40, "special characters|control characters"),
    "too large": (b"# " + b"x" * 2**20, "larger than"),
    "billion laughs": (
        b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(
            b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n" % (name, name, *[name - 1] * 9)
            for name in b"bcdefghij"
        ),
        "more than 100,000 values",
    ),
}


@pytest.mark.parametrize(("content", "problem"), CONTENTS.values(), ids=CONTENTS)
def test_a_file_that_is_something_else(params, content, problem):
    (params / "recipes/he2016-cifar.yaml").write_bytes(content)
    assert re.search(problem, message_of(params.parent)), message_of(params.parent)


def test_a_byte_order_mark_and_windows_line_ends_are_no_damage(params):
    before = load(params.parent).resolve("cifar10-resnet110").digest
    for path in params.rglob("*.yaml"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(params.parent).resolve("cifar10-resnet110").digest == before


def test_what_pyyaml_reads_alike_is_read_alike():
    """Of every parameter file: the stricter numbers and words change nothing that is there."""
    import yaml

    for path in FILES:
        assert read_yaml(path) == yaml.safe_load(path.read_text()), path


NASTY = [name for name in SCALARS if len(name) < 300]
NASTY += [
    "-1",
    "0",
    "1e999",
    "nan",
    "[]",
    "{}",
    "''",
    "~",
    "<<: *x",
    "!!set {}",
    "!!omap [a]",
    "!!pairs [a]",
    "!!str 1",
]
NASTY += ["!!null x", "!!merge x", "|", ">", "? ", "- ", "%", "\u2028", "\ufeff", "é" * 50]


@st.composite
def damage(draw) -> tuple[Path, str]:
    """A parameter file, and its text with one to three damages."""
    path = draw(st.sampled_from(list(FILES)))
    lines = path.read_text().splitlines()
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(lines) - 1))
        line = lines[number]
        kind = draw(st.sampled_from(["value", "value", "cut", "delete", "double", "swap", "insert", "indent"]))
        if kind == "value" and ": " in line:
            lines[number] = line[: line.rindex(": ") + 2] + draw(st.sampled_from(NASTY))
        elif kind == "cut":
            lines[number] = line[: draw(st.integers(0, len(line)))]
        elif kind == "delete" and len(lines) > 1:
            del lines[number]
        elif kind == "double":
            lines.insert(number, line)
        elif kind == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[number], lines[other] = lines[other], line
        elif kind == "insert":
            place = draw(st.integers(0, len(line)))
            lines[number] = (
                line[:place] + draw(st.sampled_from([*":-[]{}#&*!|>'\"%@`,? \t\x00\x1b", *NASTY])) + line[place:]
            )
        elif kind == "indent":
            lines[number] = " " * draw(st.integers(0, 9)) + line.lstrip()
    return path, "\n".join(lines)


def explained(error: UserError, path: Path) -> bool:
    return "\n" not in str(error) and str(error).startswith((f"{path}: ", "params/", str(path.parents[1])))


@settings(derandomize=True, max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(damaged=damage())
def test_any_damage_to_a_file_is_explained_or_harmless(tmp_path, damaged):
    """Read by itself, as `load` reads each."""
    source, text = damaged
    path = tmp_path / source.name
    path.write_text(text)
    try:
        read(path, FILES[source])
    except UserError as error:
        assert explained(error, path), error


@settings(derandomize=True, max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(damaged=damage())
def test_any_damage_to_the_whole_is_explained_or_harmless(params, damaged):
    """Read with all others; what is still accepted resolves at every scale."""
    source, text = damaged
    path = params / source.relative_to(ROOT / "params")
    path.write_text(text)
    try:
        project = load(params.parent)
        for scale in project.scales:
            for name in project.experiments:
                if experiment := project.resolve(name, scale):
                    assert len(experiment.digest) == 12
    except UserError as error:
        assert explained(error, path) or str(params) in str(error), error
    finally:
        shutil.copy(source, path)
