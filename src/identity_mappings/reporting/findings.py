"""results/README.md: what the runs say of the papers' numbers and claims, and what they cost."""

from collections import Counter
from functools import partial
from typing import Any

from ..parameters.claims import GRADIENTS
from ..parameters.reports import TEST_ERROR
from ..records import run
from . import claims, order, verdict
from .cells import NO_COUNTERPART, Filled, Records, name_place
from .claims import NOT_RUN, Judged, Pair
from .rendering import format_hours, render
from .times import Left, read_spent, tabulate_times

NAME = "README.md"


def render_findings(records: Records, cells: list[Filled], judged: list[Judged]) -> str:
    """The page as Markdown."""
    runs = list(order.plan_runs(records))
    published = records.settings.published
    rebuilt = [cell for cell in cells if cell.measured is not None]
    steps = list({planned.step.name: planned.step for planned in runs}.values())
    return render(
        "findings.md.jinja",
        scale=records.scale,
        settings=records.settings,
        runs=runs,
        cells_by_verdict={
            "a rebuilt error": _count(cell.verdict for cell in rebuilt if cell.cell.is_error),
            "a count (weights, multiply-adds)": _count(cell.verdict for cell in rebuilt if cell.cell.is_cost),
        },
        claims_by_verdict=_count("made after the results" if each.claim.seen else each.verdict for each in judged),
        runs_by_state=_count(planned.state for planned in runs),
        judged=judged,
        describe_origin=claims.describe_origin,
        pictures=_find_pictures(records),
        errors=_error_rows([cell for cell in rebuilt if cell.cell.is_error], published),
        rule=verdict.state_rules(records.project, records.scale)["claims"],
        claims=[_claim_row(claim, published) for claim in judged],
        differing=_find_differing(cells),
        suspicions=partial(_test_suspicions, records),
        comparisons=[(result.claim, rows) for result in judged if (rows := _comparison_rows(result, published))],
        steps=[_step_row(step, [planned for planned in runs if planned.step.name == step.name]) for step in steps],
        next_commands={
            device: next((commands for _, commands in order.plan_jobs(runs, records.scale, device)), None)
            for device in ("gpu", "cpu")
        },
        on_cpus=all(step.device == "cpu" for step in steps),
        summed_device=records.settings.device.upper(),
        times=[_time_row(row) for row in tabulate_times(records, runs)],
    )


def _count(words: Any) -> str:
    return ", ".join(f"{word} {count}" for word, count in sorted(Counter(words).items())) or "none"


def _find_pictures(records: Records) -> dict[str, str]:
    """{figure: title} of the figures of curves and signals of which something was measured."""
    finished = [record.metrics for record in records.runs.values() if record.metrics["status"] in run.FINAL]
    measured = {
        "curves": {metrics["experiment"] for metrics in finished},
        "signals": {experiment.name for experiment in records.signals.values()},
    }
    return {
        name: f"{name_place(figure.paper, figure.figure)}: {figure.title}"
        for name, figure in records.project.figures.items()
        if measured.get(figure.kind, set()) & set(figure.experiments)
    }


def _error_rows(cells: list[Filled], published: bool) -> list[dict[str, str]]:
    """Each rebuilt error once, with the places where it stands."""
    places: dict[tuple, list[Filled]] = {}
    for cell in cells:
        key = (cell.experiment.digest, cell.cell.metric, cell.cell.tested_by, cell.cell.published)
        if cell.cell.published is None:  # a row of our own repeats a number of the papers' tables
            key = next((known for known in places if known[:3] == key[:3]), key)
        places.setdefault(key, []).append(cell)
    return [
        {
            "experiment": f"`{cell.experiment.name}`",
            "metric": cell.cell.metric,
            "stands in": "; ".join(dict.fromkeys(name_place(same.table.paper, same.table.table) for same in group)),
            "published": cell.published_text if published else "",
            "rebuilt": cell.text,
            "n": str(len(cell.records)),
            "sd": "" if cell.deviation is None else f"{cell.deviation:.2f}",
            "best of test": "" if cell.best is None else f"{cell.best:.2f}",
            "difference": f"{cell.difference:+.2f}" if published and cell.difference is not None else "",
            "verdict": cell.verdict,
            "arithmetic": cell.arithmetic,
            "device": ", ".join(dict.fromkeys(read_spent(record).device for record in cell.records)),
        }
        for group in places.values()
        for cell in group[:1]
    ]


def _claim_row(judged: Judged, published: bool) -> dict[str, str]:
    row = {
        "claim": judged.claim.says,
        "source": judged.source,
        "metric": judged.claim.metric,
        "comparisons": claims.join_counts(judged.counts),
        "verdict": f"{judged.verdict} (made after the results)" if judged.claim.seen else f"**{judged.verdict}**",
    }
    return row | ({"on paper": claims.join_counts(judged.on_paper)} if published else {})


def _comparison_rows(judged: Judged, published: bool) -> list[list[str]]:
    """The compared pairs of a claim, below their headers; empty if there are none."""
    metric = judged.claim.metric
    of_test = published and metric == TEST_ERROR
    headers = ["said to be lower", "measured", "n", "said to be higher", "measured", "n"]
    headers += ["higher / lower" if metric in GRADIENTS else "difference ± se", "verdict"]
    headers += ["published", "on paper"] if of_test else []

    def row(pair: Pair) -> list[str]:
        texts = [text for name, side, _ in pair.both for text in (f"`{name}`", side.text, str(len(side.values)))]
        texts += [pair.difference, pair.verdict]
        if of_test:
            both = "" if None in pair.published else " and ".join(map(claims.format_published, pair.published))
            texts += [both, pair.on_paper or ""]
        return texts

    rows = [row(pair) for pair in judged.pairs if pair.verdict not in (NOT_RUN, NO_COUNTERPART)]
    return [headers, *rows] if rows else []


def _find_differing(cells: list[Filled]) -> dict[str, list[str]]:
    """{experiment: what differs from the paper}."""
    differing: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.verdict == verdict.DIFFERS and cell.cell.is_error:
            text = f"{cell.text} where {cell.published_text} was published"
            differing.setdefault(cell.experiment.name, {})[text] = None
    return {name: list(texts) for name, texts in differing.items()}


def _test_suspicions(records: Records, name: str, metric: str) -> list[dict[str, str]]:
    """The suspicions that params/claims.yaml names for an experiment or claim, and what their tests gave."""
    tested = []
    for suspicion in (each for each in records.project.claims.suspicions if each.of == name):
        sides, texts = [], []
        for name_of_side in (suspicion.against, suspicion.tested_by):
            experiment = records.project.resolve(name_of_side, records.scale)
            side = claims.measure_side(records, metric, experiment) if experiment else None
            sides.append(side)
            texts.append(f"`{name_of_side}` " + (f"{side.text} (n = {len(side.values)})" if side else "not run"))
        difference = "" if None in sides else claims.difference_text(*sides) or "no difference to be told"
        tested.append({"says": suspicion.says, "texts": texts[::-1], "difference": difference})
    return tested


def _step_row(step: Any, runs: list[order.PlannedRun]) -> dict[str, str]:
    states = Counter(planned.state for planned in runs)
    counts = {state: str(states[state] or "") for state in order.STATES}
    return {"runs": step.name, "why here": step.why, "wanted": str(len(runs)), **counts}


def _time_row(row: Any) -> dict[str, str]:
    each = row.seconds_an_iteration
    return {
        "network": row.name,
        "runs": str(row.wanted),
        "done": str(row.done or ""),
        "device": row.device,
        "steps/s": "" if each is None else f"{1 / each:.3g}",
        "hours a run": "" if each is None else format_hours(each * row.iterations),
        "memory, GiB": "" if row.peak_memory is None else f"{row.peak_memory / 2**30:.2f}",
        "hours spent": "" if row.seconds is None else format_hours(row.seconds),
        "hours to go": describe_left(row.left),
        "10^15 multiply-adds to go": "" if row.operations_left is None else f"{row.operations_left / 1e15:,.1f}",
    }


def describe_left(left: Left) -> str:
    """Hours of the runs that are left, and how many of them have no measured time."""
    if not left.unknown_runs:
        return format_hours(left.seconds) if left.runs else ""
    if left.unknown_runs == left.runs:
        return "not measured"
    kinds = f" of {left.unknown_kinds} kinds" if left.unknown_kinds > 1 else ""
    return f"at least {format_hours(left.seconds)}; {left.unknown_runs} runs{kinds} not measured"
