"""Parameter files as text: whatever stands in one, it is read, or it is one line with file, key and cure."""

import math
import re
import shutil
import subprocess
import time
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity_mappings.errors import UserError
from identity_mappings.graph import Graph
from identity_mappings.parameters import load
from identity_mappings.parameters.load import read

ROOT = Path(__file__).parents[2]
RECIPE, REPORTING, DEMO = "recipes/he2016-cifar.yaml", "reporting.yaml", "scales/demo.yaml"
TABLE, CIFAR10, DATASETS = "tables/he2016-table1.yaml", "experiments/cifar10.yaml", "datasets.yaml"
FIGURE, DETECTION = "figures/he2016-figure6.yaml", "detection.yaml"
KINDS = {
    "recipes": "recipe", "scales": "scale", "tables": "table", "figures": "figure", "experiments": "experiments",
}  # fmt: skip
FILES = sorted(path.relative_to(ROOT / "params").as_posix() for path in (ROOT / "params").rglob("*.yaml"))
# Values that no parameter has. All have been a traceback, or were accepted, in some reader of YAML.
NASTY = [
    "!!float x", "!!int abc", "!!bool xyz", "!!timestamp z", "!!binary x", "!!set {a}", "!!python/name:os.system",
    "2001-99-99", "2001-01-01", "9" * 5000, "0." + "3" * 5000, ".inf", "-.inf", ".nan", "1:30", "010", "0x1F", "0b1",
    "1_0", "1e400", "1.0e+400", "-5", "0", "500", "true", "~", "", "[1]", "{a: 1}", "[[[[[[[[[[1]]]]]]]]]]", "&a [*a]",
    "*a", "<<", "=", "'", '"a\\nb"', "\x07", "\x00", "\t", "\ud7ff", "%", "@x", "- x", "? x", "x: y", "1\n---\na: b",
    "x" * 6000, "[" * 500, "10000000000", "yes",
]  # fmt: skip


@pytest.fixture(scope="module")
def params(tmp_path_factory) -> Path:
    """A folder with params/ that a test may change, if it puts the file back."""
    root = tmp_path_factory.mktemp("text")
    shutil.copytree(ROOT / "params", root / "params")
    shutil.copytree(ROOT / "examples", root / "examples")
    return root


def message_of(root: Path, file: str, content: bytes) -> str | None:
    """What is said of the project with this content in a file; None if it is accepted. Nothing but a UserError."""
    path = root / "params" / file
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        project = load(root)
        for scale in project.scales:
            for name in project.names:
                project.resolve(name, scale)
    except UserError as error:
        return str(error)
    finally:
        path.write_bytes(before)
    return None


def replaced(file: str, old: str, new: str) -> bytes:
    text = (ROOT / "params" / file).read_text()
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1).encode()


def assert_one_line(message: str | None, file: str) -> None:
    assert message, "accepted"
    assert f"params/{file}: " in message, message
    assert "\n" not in message and message.isprintable() and len(message) < 700, message


@pytest.mark.parametrize("value", NASTY, ids=lambda value: ascii(value)[:30])
def test_a_value_that_is_no_momentum_names_the_file_the_key_or_the_line_and_the_cure(params, value):
    message = message_of(params, RECIPE, replaced(RECIPE, "momentum: 0.9", f"momentum: {value}"))
    if value == "0":
        assert message is None, "SGD without momentum"
        return
    assert_one_line(message, RECIPE)
    assert re.search(r"momentum|line \d+: |x: unknown key", message), message


OUT_OF_RANGE = {
    (REPORTING, "cifar10: 0.2"): [".inf", "-1", "0", "101", ".nan"],
    (REPORTING, "cifar10: 20.0"): ["-1", "0", "100.5"],
    (REPORTING, "agrees_within: 2.0"): ["0", "-2", ".inf"],
    (REPORTING, "gradient_factor: 10"): ["1", ".inf", "-1"],
    (RECIPE, "400: 0.1"): [".inf", "0", "-0.1", "1000"],
    (RECIPE, "iterations: 64000"): ["0", "-1", ".inf", "10000000000"],
    (RECIPE, "batch_norm_eps: 0.00001"): ["0", "-1", ".inf", "2"],
    (RECIPE, "weight_decay: 0.0001"): ["-1", "2", ".nan"],
    (RECIPE, "crop_padding: 4"): ["-1", "100000"],
    (RECIPE, "cpu_threads: 2"): ["0", "1000000"],
    (DEMO, "iterations: 100"): ["-.inf", ".inf", "0", "-1"],
    (DEMO, "runs: 1"): ["0", "-1", "1000000"],
    (DEMO, "signal_iterations: 5"): ["-1", ".inf"],
    (TABLE, "published: 6.61"): ["-5", "500", ".inf"],
    (CIFAR10, "ratio: 0.5"): ["1", "-0.1", ".nan"],
    (CIFAR10, "gate_bias: -6"): [".inf", "1000"],
    (CIFAR10, "residual_scale: 0.5"): [".inf", "11"],
    (DATASETS, "classes: 10"): ["0", "-1", "10000000000"],
    (DATASETS, "classes: 20"): ["0", "-1", "10000000000"],
    (DETECTION, "shorter_side: 600"): ["0", ".inf"],
    (DETECTION, "rpn_nms: 0.7"): ["-0.1", "1.5", ".nan"],
    (DETECTION, "positive_regions: 0.25"): ["2", ".inf"],
    (DETECTION, "gpus: 8"): ["0", "-1"],
}


@pytest.mark.parametrize(
    ("file", "old", "value"), [(*place, value) for place, values in OUT_OF_RANGE.items() for value in values]
)
def test_a_number_without_a_meaning_is_refused_with_the_bound_that_it_breaks(params, file, old, value):
    key = old.partition(":")[0]
    message = message_of(params, file, replaced(file, old, f"{key}: {value}"))
    assert_one_line(message, file)
    assert key in message, message
    assert re.search(r"(greater|less) than (or equal to )?-?\d+, not |from 0 to 100|finite number|integer", message), (
        message
    )


@pytest.mark.parametrize("written", ["1:30", "19:20:30", "010", "0x1F", "0b11", "1_000", "1e400"])
def test_a_number_that_yaml_reads_otherwise_than_a_person_is_refused(params, written):
    for file, old in ((RECIPE, "  400: 0.1"), (RECIPE, "iterations: 64000"), (DEMO, "iterations: 100")):
        key = old.partition(":")[0]
        message = message_of(params, file, replaced(file, old, f"{key}: {written}"))
        assert_one_line(message, file)
        assert key.strip() in message and f'not the text "{written}"' in message, message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("anchor_sizes: [128, 256, 512]", "anchor_sizes: []", "anchor_sizes"),
        ("image_mean: [122.7717, 115.9465, 102.9801]", "image_mean: [1.0]", "image_mean"),
        ("shorter_side: 600", "shorter_side: 2000", "longer_side 1000 is below shorter_side 2000"),
        ("backbone: imagenet-resnet101", "backbone: imagenet-resnet7", "imagenet-resnet7"),
        ("log_every: 100", "log_every: 300", "log_every 300 does not divide"),
    ],
)
def test_a_detection_that_cannot_be_trained(params, old, new, said):
    message = message_of(params, DETECTION, replaced(DETECTION, old, new))
    assert_one_line(message, DETECTION)
    assert said in message, message


KEYS = ["~", "true", "4.5", "2001-01-01", "1:30", "[a]", "{a: b}", "<<", ".inf", '"a\\nb"', "-4", "x" * 200, "400"]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[:12])
def test_a_key_of_the_wrong_type(params, key):
    message = message_of(params, RECIPE, replaced(RECIPE, "  32000: 0.01", f"  {key}: 0.01"))
    assert_one_line(message, RECIPE)
    assert re.search(r"learning_rate|line \d+: not valid YAML", message), message


@pytest.mark.parametrize("file", [RECIPE, DEMO, TABLE, CIFAR10, FIGURE, DETECTION, "claims.yaml"])
@pytest.mark.parametrize("key", ["5: 1", "~: 1", "true: 1", "2001-01-01: 1"])
def test_a_key_of_the_wrong_type_at_the_top(params, file, key):
    content = (params / "params" / file).read_bytes() + f"\n{key}\n".encode()
    assert_one_line(message_of(params, file, content), file)


WHOLE = {
    "empty": b"", "spaces": b"  \n", "comments": b"# nothing\n", "null": b"~\n", "number": b"5\n", "list": b"- a\n",
    "UTF-16": "momentum: 0.9\n".encode("utf-16"), "Latin-1": "description: gr\xfc\xdfe\n".encode("latin-1"),
    "zero bytes": bytes(1000), "random bytes": bytes(range(256)) * 4, "tab": b"\tmomentum: 1\n",
    "deep lists": b"[" * 100_000, "deep mappings": b"{a: " * 100_000, "deep blocks": b"- " * 50_000,
    "too large": b"x: " + b"y" * 2_000_000, "another version": b"%YAML 9.9\n---\na: 1\n", "escape": b'a: "\\ud800"\n',
    "billion laughs": b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(12)
    ),
}  # fmt: skip


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("file", [RECIPE, TABLE])
def test_a_file_that_is_something_else(params, file, content):
    begun = time.monotonic()
    assert_one_line(message_of(params, file, content), file)
    assert time.monotonic() - begun < 5


def test_a_byte_order_mark_and_other_line_ends_change_nothing(params):
    digest = load(params).resolve("cifar10-resnet110").digest
    path = params / "params" / RECIPE
    before = path.read_bytes()
    try:
        for content in (b"\xef\xbb\xbf" + before, before.replace(b"\n", b"\r\n")):
            path.write_bytes(content)
            assert load(params).resolve("cifar10-resnet110").digest == digest
    finally:
        path.write_bytes(before)


def test_an_editors_lock_beside_a_file_is_no_parameter_file(params):
    locks = [params / "params" / folder / ".#x.yaml" for folder in ("recipes", "scales", "experiments")]
    for lock in locks:
        lock.symlink_to("nobody@nowhere.1:2")
    try:
        load(params)
    finally:
        for lock in locks:
            lock.unlink()


@pytest.mark.parametrize("make", ["fifo", "folder", "loop"])
def test_what_is_no_regular_file(params, make):
    """A FIFO has no end."""
    path = params / "params/recipes/own.yaml"
    if make == "fifo":
        subprocess.run(["mkfifo", path], check=True)
    elif make == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name)
    try:
        with pytest.raises(UserError, match=r"params/recipes/own\.yaml: [^\n]+: restore it"):
            load(params)
    finally:
        path.rmdir() if make == "folder" else path.unlink()


def test_an_argument_of_a_custom_shortcut_must_have_a_digest(params):
    for value in (".inf", "{5: 1}", "[.nan]"):
        new = f"{{kind: custom, source: own.py, class_name: A, arguments: {{a: {value}}}}}"
        content = f"own: {{dataset: cifar10, recipe: ~, network: {{depth: 20, shortcut: {new}}}}}\n".encode()
        path = params / "params/experiments/own.yaml"
        path.write_bytes(content)
        try:
            with pytest.raises(UserError, match=r"own\.yaml: own\.network\.shortcut\.arguments: .*: write"):
                load(params)
        finally:
            path.unlink()


def test_every_command_says_it_in_one_line(copy):
    """The command line with exit status 2, Snakemake with its own."""
    copy.edit(f"params/{RECIPE}", "momentum: 0.9", "momentum: !!float x")
    answer = copy.command("resolve", "cifar10-resnet20")
    assert answer.returncode == 2
    [line] = answer.stdout.splitlines()
    assert line.startswith(f"identity-mappings: params/{RECIPE}: line 12: ") and "tag" in line
    answer = copy.snakemake("-n", cores=1)
    assert answer.returncode != 0 and "Traceback" not in answer.stdout
    assert "tag" in answer.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "config",
    [
        {"scale": [1]}, {"scale": {"a": 1}}, {"scale": None}, {"scale": math.inf}, {"device": 1}, {"device": ["gpu"]},
        {"runs_per_gpu": True}, {"runs_per_gpu": 0}, {"runs_per_gpu": 90.0}, {"runs_per_gpu": "two"},
        {"runs_per_gpu": None}, {"processes": math.inf}, {"processes": False}, {"processes": -1}, {"processes": [2]},
        {"arithmetic": date(2001, 1, 1)}, {"arithmetic": []}, {5: 6}, {None: 1}, {"sclae": "demo"},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_config_is_checked_too(config):
    """As Snakemake reads it: by YAML 1.1."""
    with pytest.raises(UserError) as caught:
        Graph(ROOT, config)
    assert "\n" not in str(caught.value)


# Mutations of the real files.


def _spoil(content: bytes, edits: list[tuple]) -> bytes:
    for kind, where, what in edits:
        if kind == "byte":
            at = where % (len(content) + 1)
            content = content[:at] + bytes([what % 256]) + content[at + what % 2 :]
            continue
        lines = content.split(b"\n")
        at = where % len(lines)
        if kind == "swap":
            other = what % len(lines)
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == "drop":
            del lines[at]
        elif kind == "repeat":
            lines.insert(at, lines[at])
        elif kind == "indent":
            lines[at] = b" " * (what % 4) + lines[at].lstrip()
        else:  # a value
            key, colon, _ = lines[at].partition(b": ")
            value = NASTY[what % len(NASTY)].encode()
            lines[at] = key + colon + value if colon else value
        content = b"\n".join(lines)
    return content


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["byte", "swap", "drop", "repeat", "indent", "value", "value", "value"]),
        st.integers(0, 10_000),
        st.integers(0, 10_000),
    ),
    min_size=1,
    max_size=4,
)
QUIET = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@settings(max_examples=500, **QUIET)
@given(file=st.sampled_from(FILES), edits=EDITS)
def test_a_spoiled_file_is_read_or_is_one_line(params, file, edits):
    path = params / "spoiled" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_spoil((ROOT / "params" / file).read_bytes(), edits))
    try:
        read(path, KINDS.get(path.parent.name, path.stem))
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


@settings(max_examples=60, **QUIET)
@given(file=st.sampled_from(FILES), edits=EDITS)
def test_a_project_with_a_spoiled_file_is_read_or_is_one_line(params, file, edits):
    message = message_of(params, file, _spoil((ROOT / "params" / file).read_bytes(), edits))
    assert message is None or "\n" not in message
