"""The rule of verdicts against numbers worked out by hand."""

import math

import pytest

from identity_mappings.parameters.reports import Cell, Reporting
from identity_mappings.reporting import verdict
from identity_mappings.reporting.rendering import render_macro
from identity_mappings.reporting.verdict import AGREES, DIFFERS, TRUNCATED, UNDECIDED

RULE = Reporting(
    fail_above={"cifar10": 20.0},
    prior_deviation={"cifar10": 0.2, "cifar100": 0.4},
    resolution={"cifar10": 0.5, "cifar100": 1.0},
    agrees_within=2.0,
    differs_beyond=3.0,
    gradient_factor=10.0,
)
# One run of prior spread 0.25 against a published value without spread: the standard error is exactly 0.25.
QUARTER = RULE.model_copy(update={"prior_deviation": {"cifar10": 0.25}})


def cell(runs: int = 5, deviation: float | None = None) -> Cell:
    return Cell(
        published=6.0,
        network="ResNet-110",
        experiments=["cifar10-resnet110"],
        published_runs=runs,
        published_deviation=deviation,
    )


def judge(value, published=6.0, errors=None, rule=QUARTER, of=None, dataset="cifar10", of_mean=False):
    of = of or cell(runs=1, deviation=0.0)
    return verdict.judge_error(value, published, [value] if errors is None else errors, of, dataset, rule, of_mean)


@pytest.mark.parametrize(
    ("errors", "of", "of_mean", "variance"),
    [
        # rebuilt, then published: prior 0.2 each, where nothing else is said
        ([6.0], cell(), False, 0.04 + 0.04 / 5 * 1.5707963),
        ([6.0, 9.0], cell(), False, 0.04 / 2 + 0.04 / 5 * 1.5707963),  # n = 2: the runs' own spread is not used
        ([6.0, 6.1, 6.2], cell(), False, 0.01 / 3 * 1.5707963 + 0.04 / 5 * 1.5707963),  # n = 3: it is, 0.1
        ([6.0, 6.2, 6.4, 6.6, 6.8], cell(), False, 0.1 / 5 * 1.5707963 + 0.04 / 5 * 1.5707963),
        ([6.0], cell(deviation=0.16), False, 0.04 + 0.0256 / 5 * 1.5707963),  # the paper states its deviation
        ([6.0], cell(runs=1), False, 0.04 + 0.04),  # the paper has one run: no median
        ([6.0], cell(runs=2), False, 0.04 + 0.04 / 2),
        ([6.0, 6.1, 6.2], cell(deviation=0.14), True, 0.01 / 3 + 0.0196 / 5),  # means: no factor on either side
        ([6.0, 6.2, None], cell(), False, 0.04 / 3 * 1.5707963 + 0.04 / 5 * 1.5707963),  # two finite runs: the prior
    ],
)
def test_standard_error(errors, of, of_mean, variance):
    found = verdict.standard_error(errors, of, "cifar10", RULE, of_mean)
    assert found == pytest.approx(math.sqrt(variance), rel=1e-7)


def test_the_prior_is_the_datasets_own():
    assert verdict.standard_error([6.0], cell(1), "cifar100", RULE) == pytest.approx(math.sqrt(0.16 + 0.16))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("distance", "expected"),
    [(0, AGREES), (0.5, AGREES), (0.515625, UNDECIDED), (0.75, UNDECIDED), (0.765625, DIFFERS), (9, DIFFERS)],
)
def test_agrees_up_to_2_standard_errors_and_differs_beyond_3(distance, sign, expected):
    assert judge(6 + sign * distance, 6.0, [6.0]) == expected


def test_an_agreement_within_a_band_wider_than_the_resolution_says_nothing():
    narrow = QUARTER.model_copy(update={"resolution": {"cifar10": 0.499}})
    assert judge(6.0, rule=QUARTER) == AGREES
    assert judge(6.0, rule=narrow) == UNDECIDED
    assert judge(6.8, rule=narrow) == DIFFERS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, AGREES),  # diverged
        (99.0, AGREES),
        (20.01, AGREES),
        (20.0, UNDECIDED),  # "above 20 %"
        (19.25, UNDECIDED),  # 3 standard errors below 20
        (19.24, DIFFERS),
        (6.61, DIFFERS),
    ],
)
def test_a_published_fail(value, expected):
    assert judge(value, "fail", [6.0]) == expected


@pytest.mark.parametrize("value", [None, 20.01, 99.0])
def test_a_failure_differs_from_every_published_number(value):
    assert judge(value, 19.99, [19.99]) == DIFFERS


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([6.0], 6.0),
        ([6.0, 7.0], 6.5),
        ([9.0, 6.0, 7.0], 7.0),
        ([6.0, None, 7.0], 7.0),
        ([5.0, None, 7.0, 6.0], 6.5),
        ([6.0, None], None),
        ([None, 6.0, None], None),
        ([None], None),
    ],
)
def test_a_diverged_run_is_above_all_others_in_the_median(errors, expected):
    assert verdict.median(errors) == expected


@pytest.mark.parametrize("dataset", ["cifar100", "imagenet"])
def test_where_the_papers_print_no_fail_no_error_is_one(dataset):
    """All published errors of CIFAR-100 lie above 20 %."""
    assert not verdict.fails(99.0, RULE, dataset)
    assert verdict.fails(None, RULE, dataset)


def test_the_page_states_the_rule_with_its_constants():
    odd = Reporting(
        fail_above={"cifar10": 21.5},
        prior_deviation={"cifar10": 0.123, "cifar100": 0.234},
        resolution={"cifar10": 0.345, "cifar100": 0.456},
        agrees_within=1.75,
        differs_beyond=4.25,
        gradient_factor=7.0,
    )
    text = render_macro("rules.md.jinja", "errors", odd, ("cifar10", "cifar100"))
    for words in (
        "0.123 points on cifar10", "0.234 points on cifar100", "0.345 points on cifar10", "0.456 points on cifar100",
        "at most 1.75 se", "more than 4.25 se", "above a limit (21.5 % on cifar10)", "4.25 se below the limit",
        "n is below 3", "pi/2",
    ):  # fmt: skip
        assert words in text, words
    assert "cifar100" not in render_macro("rules.md.jinja", "errors", odd, ("cifar10",))


@pytest.mark.parametrize(
    ("value", "published", "expected"),
    [
        (1_727_962, "1.7M", AGREES),
        (19_350_000, "19.4M", AGREES),
        (19_349_999, "19.4M", DIFFERS),
        (19_450_001, "19.4M", TRUNCATED),
        (19_500_000, "19.4M", DIFFERS),
        (269_722, "0.27M", AGREES),
        (3_857_973_248, "3.8×10^9", TRUNCATED),  # ResNet-50: rounded, it is 3.9
        (4_089_184_256, "3.8×10^9", DIFFERS),  # with the stride on the 3x3
        (3_700_000_000, "3.8×10^9", DIFFERS),
        (18.56, "18%", TRUNCATED),  # ResNet-34 of VGG-19
        (17.5001, "18%", AGREES),
        (0, "1.7M", DIFFERS),
    ],
)
def test_a_count_agrees_if_it_rounds_to_the_published_one_and_is_cut_off_if_that_is_its_beginning(
    value, published, expected
):
    assert verdict.judge_count(value, published) == expected


@pytest.mark.parametrize(
    ("value", "published", "text"),
    [
        (1_727_962, "1.7M", "1.7M"),
        (1_727_962, "1.25M", "1.73M"),
        (3_857_973_248, "3.8×10^9", "3.9×10^9"),
        (3_857_973_248, "4×10^9", "4×10^9"),
        (18.56, "18%", "19%"),
        (18.56, "18.4%", "18.6%"),
        (1_727_962, None, "1,727,962"),
    ],
)
def test_a_count_is_printed_in_the_papers_unit_and_rounded_to_its_decimals(value, published, text):
    assert verdict.format_count(value, published) == text
