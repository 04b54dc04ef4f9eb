"""results/README.md: what stands on it comes from the records, and what it names is there."""

import re
from pathlib import Path

import pytest

from identity_mappings.reporting.tables import make_report

IDENTITY, GATE = "cifar10-resnet110", "cifar10-resnet110-exclusive-gate-b6"
PAGE = "README.md"


def section(page: str, heading: str) -> str:
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def row(text: str, start: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [part.strip() for part in line.strip("|").split("|")]


def page_of(bench, scale: str = "paper") -> str:
    return (bench.tables(scale) / PAGE).read_text()


def test_without_a_run_it_says_so(bench):
    page = page_of(bench)
    assert "259 wanted; waiting 259." in page
    assert "No run is finished yet." in section(page, "Errors beside the published ones")
    assert "None: no error differs" in section(page, "Surprises")
    assert "Nothing yet" in section(page, "What was compared")
    claims = section(page, "Claims")
    assert claims.count("**not run**") == sum(not one.seen for one in bench.project.claims.claims)


def test_an_error_stands_beside_the_published_one_with_its_spread(bench):
    hardware = {"hardware": {"gpu": {"model": "NVIDIA H200"}, "cpu": "x"}, "sessions": [{"seconds": 3600.0}]}
    for seed, error in enumerate((6.5, 6.6, 6.9)):
        bench.record(IDENTITY, error, seed, best=error - 0.1, provenance=hardware)
    page = page_of(bench)
    errors = section(page, "Errors beside the published ones")
    found = [line for line in errors.splitlines() if line.startswith(f"| `{IDENTITY}`")]
    assert len(found) == 3, "the median once though four tables have it; the best run; the mean"
    median = [part.strip() for part in found[0].strip("|").split("|")]
    assert "6.61" in "".join(found)
    [line] = [line for line in found if "| 6.61 " in line and "±" not in line]
    median = [part.strip() for part in line.strip("|").split("|")]
    assert median[1] == "test error %"
    assert median[3:] == ["6.61", "6.60", "3", "0.21", "6.50", "-0.01", "agrees", "float32", "GPU NVIDIA H200"]
    assert median[2] == "he2016, Table 1; he2016, Table 2; he2016, Table 3; he2016, Table 4; A convolutional gate"
    times = row(section(page, "Time"), "ResNet-110, cifar10")
    assert times[1:4] == ["121", "3", "GPU NVIDIA H200"]
    assert times[5] == "1.00" and times[7:9] == ["3.00", "2.00, without 116 runs"], "nothing was counted"
    total = row(section(page, "Time"), "all ")
    assert total[1:4] == ["259", "3", ""]
    assert total[7:9] == ["3.00", "2.00, without 254 runs"]
    assert "To go: at least 2.0 h on GPU NVIDIA H200, without 254 runs of unknown time." in section(page, "Time")


def test_figures_of_what_was_measured_are_shown(bench):
    assert "](figures/" not in page_of(bench)
    bench.record("cifar10-plain20", 9.0)
    bench.record(IDENTITY, 30.0, status="unfinished")
    assert re.findall(r"\]\((figures/\S+)\)", page_of(bench)) == ["figures/he2015-figure6.png"]


def test_a_claim_has_verdict_and_comparisons(bench):
    bench.record(IDENTITY, 6.6)
    bench.record(GATE, 8.7)
    page = page_of(bench)
    claim = row(section(page, "Claims"), "Of all shortcuts")
    assert claim[3:] == ["1 holds, 9 not run", "**open**", "9 holds, 1 undecided"]
    compared = row(section(page, "What was compared"), f"`{IDENTITY}`")
    assert compared == [
        f"`{IDENTITY}`", "6.60", "1", f"`{GATE}`", "8.70", "1", "+2.10 ± 0.28", "holds", "6.61 and 8.70", "holds",
    ]  # fmt: skip


def test_a_claim_that_was_made_of_its_records_is_no_test(bench):
    page = page_of(bench)
    seen = [one for one in bench.project.claims.claims if one.seen]
    assert seen and page.count("(post hoc)") == len(seen)
    assert f"post hoc {len(seen)}" in page, "not among those that hold"


def test_a_surprise_is_named_with_its_suspicion(bench):
    claims = bench.root / "params/claims.yaml"
    suspicion = f"  - {{of: {IDENTITY}, says: The rate., against: {IDENTITY}, tested_by: {GATE}}}\n"
    claims.write_text(claims.read_text() + suspicion)
    bench.record(IDENTITY, 12.0)
    surprises = section(page_of(bench), "Surprises")
    assert re.search(rf"- `{IDENTITY}`: .*12\.00 where 6\.61 was published", surprises)
    assert f"First suspicion: The rate. Tested: `{GATE}` not run against `{IDENTITY}` 12.00 (n = 1)." in surprises
    bench.record(GATE, 8.0)
    surprises = section(page_of(bench), "Surprises")
    assert f"Tested: `{GATE}` 8.00 (n = 1) against `{IDENTITY}` 12.00 (n = 1): -4.00." in surprises
    assert "No suspicion is named yet" in surprises, "of the claim"
    assert "Of all shortcuts the identity has the lowest test error." in surprises
    assert f"`{GATE}` (8.00) is below `{IDENTITY}` (12.00)" in surprises


def test_an_unfinished_run_says_where_it_stands(bench):
    bench.record("cifar10-plain20", 30.0, status="unfinished")
    bench.record("cifar10-resnet20", None)
    runs = section(page_of(bench), "Runs")
    assert "- `cifar10-plain20`, seed 0: 32,000 of 64,000 iterations." in runs
    assert row(runs, "cifar10 ") == ["cifar10", "221", "", "1", "1", "219"]
    assert row(runs, "imagenet ") == ["imagenet", "14", "", "", "", "14"]


def test_an_arithmetic_that_is_not_the_papers_is_named(bench):
    bench.record(IDENTITY, 6.6, arithmetic="tf32")
    bench.record(GATE, 8.7)
    page = page_of(bench)
    assert "6.60 (tf32)" in section(page, "Errors beside the published ones")
    assert "6.60 (tf32)" in section(page, "What was compared")


def test_another_scale_says_that_it_is_not_the_papers(bench):
    bench.record(IDENTITY, 12.0, scale="tiny")
    page = page_of(bench, "tiny")
    assert "**Scale `tiny`.** For tests." in page
    assert row(section(page, "Runs"), "digits ") == ["digits", "3", "1", "", "", "2"]
    errors = section(page, "Errors beside the published ones")
    found = [line.split("|")[1:-1] for line in errors.splitlines() if line.startswith(f"| `{IDENTITY}`")]
    assert found and all(not line[3].strip() and not line[8].strip() for line in found), "published of other networks"
    assert "6.61" not in page


def test_a_smaller_scale_says_in_words_what_holds_and_what_it_cannot_say(bench):
    bench.copy.edit("params/scales/tiny.yaml", "published: false", "published: false\ncannot_say: [How 56 layers do.]")
    other, pre_activation = "cifar10-resnet110-scaled-05-05", "cifar10-resnet110-full-pre-activation"
    for name, errors in {IDENTITY: (10.0, 10.1, 10.2), other: (12.0, 12.1, 12.2), GATE: (5.0, 5.1, 5.2)}.items():
        for seed, error in enumerate(errors):
            bench.record(name, error, seed, scale="tiny")
    bench.copy.edit("params/scales/tiny.yaml", "runs: 1", "runs: 3")
    words = section(page_of(bench, "tiny"), "In words")
    parts = dict(re.findall(r"\*\*([^*]+)\*\*\n\n((?:- .*\n)+)", words))
    assert "Of all shortcuts the identity has the lowest test error. (he2016" in parts["Does not hold at this scale"]
    assert "1 holds, 1 contradicted, 8 not run" in parts["Does not hold at this scale"]
    assert "Full pre-activation has a lower" in parts["Not run yet"] and pre_activation not in words
    assert parts["What this scale cannot say"] == "- How 56 layers do.\n"
    assert not any("begin with exploding" in text for text in parts.values()), "post hoc"


def test_a_run_that_diverged_is_counted(bench):
    for seed, error in enumerate((6.4, None, 6.5)):
        bench.record(IDENTITY, error, seed)
    bench.record(GATE, 9.0)
    compared = row(section(page_of(bench), "What was compared"), f"`{IDENTITY}`")
    assert compared[1:3] == ["6.50 (1 diverged)", "3"]


def test_a_bad_record_is_in_the_comparison_too(bench):
    """The page reads more than the tables; what it does not believe is said in the same place."""
    folder = bench.record("cifar10-plain20", 30.0, status="unfinished")
    (folder / "partial/curve.csv").write_text("x")
    made = make_report(bench.project, "paper")
    assert any("curve.csv" in reason for reason in made.records.bad)
    assert b"curve.csv" in made.pages["comparison.md"]


@pytest.mark.parametrize("name", ["README.md"])
def test_the_committed_page_leads_somewhere(root_of_project, name):
    results = root_of_project / "results"
    for target in re.findall(r"\]\(([^)#]+)\)", (results / name).read_text()):
        assert (results / Path(target)).exists(), target
