"""params/claims.yaml and the order of a scale: every mistake is one line that names file, key and cure."""

import re

import pytest

from identity_mappings.errors import UserError
from identity_mappings.parameters import load

CLAIMS, SCALE = "claims.yaml", "scales/paper.yaml"
WRONG = {
    "unknown experiment of a claim": (
        CLAIMS, "{lower: [cifar10-resnet110], higher: [cifar10-resnet1202]}",
        "{lower: [cifar10-resnet110], higher: [cifar10-resnet1220]}",
        "claims.12.comparisons.0.higher", "did you mean 'cifar10-resnet1202'",
    ),
    "unknown metric": (CLAIMS, "metric: training loss", "metric: trainig loss", "metric", "'training loss'"),
    "unknown key of a claim": (
        CLAIMS, "    metric: training loss", "    metrik: training loss", "metrik", "did you mean 'metric'"
    ),
    "a claim with nothing to compare": (
        CLAIMS, "{lower: [cifar10-resnet110], higher: [cifar10-resnet1202]}",
        "{lower: [], higher: [cifar10-resnet1202]}", "claims.12.comparisons.0.lower", "at least 1",
    ),
    "a claim against itself": (
        CLAIMS, "{lower: [cifar10-resnet110], higher: [cifar10-resnet1202]}",
        "{lower: [cifar10-resnet1202], higher: [cifar10-resnet1202]}", "claims.12", "correct lower and higher",
    ),
    "two claims of one name": (
        CLAIMS, "name: bn-after-addition-impedes", "name: bn-after-addition-hurts", "bn-after-addition-hurts",
        "rename one",
    ),
    "a suspicion of nothing": (
        CLAIMS, "of: plain-networks-keep-gradients", "of: plain-network-keep-gradients", ".of",
        "did you mean 'plain-networks-keep-gradients'",
    ),
    "a suspicion tested by nothing": (
        CLAIMS, "tested_by: cifar10-resnet110-scaled-0-1", "tested_by: cifar10-resnet110-scaled-0-2", ".tested_by",
        "did you mean 'cifar10-resnet110-scaled-0-1'",
    ),
    "a suspicion against nothing": (
        CLAIMS, "against: cifar10-plain110", "against: cifar10-plain111", ".against", "did you mean 'cifar10-plain110'"
    ),
    "unknown experiment of an order": (
        SCALE, "  - cifar10-resnet110-dropout\n", "  - cifar10-resnet110-dropuot\n", "order",
        "did you mean 'cifar10-resnet110-dropout'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "key", "cure"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_line(copy, file, old, new, key, cure):
    path = copy.root / "params" / file
    text = path.read_text()
    assert text.count(old) == 1, "one mistake at a time"
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError) as caught:
        load(copy.root)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert key in message, message
    assert re.search(cure, message), message


def test_without_the_file_it_says_how_to_get_it(copy):
    (copy.root / "params" / CLAIMS).unlink()
    with pytest.raises(UserError, match=f"{CLAIMS}: No such file or directory: restore it"):
        load(copy.root)
