"""results/README.md: what the runs say of the papers' numbers and claims, and what they cost."""

from collections import Counter
from functools import partial
from typing import Any

from ..parameters.claims import GRADIENTS
from ..parameters.reports import TEST_ERROR
from ..records import run
from ..records.speed import Speeds, read_spent
from . import claims, verdict
from .cells import NO_COUNTERPART, FilledCell, name_place
from .claims import NOT_RUN, Judged, Pair
from .rendering import format_hours, render
from .run_states import RECORDED_STATES, RunState, list_runs
from .store import Records
from .times import Left, Times, choose_devices, gather_speeds, tabulate_times

NAME = "README.md"


def render_findings(records: Records, cells: list[FilledCell], judged: list[Judged]) -> str:
    """The page as Markdown."""
    runs = list_runs(records)
    times = time_runs(records, runs)
    published = records.settings.published
    rebuilt = [cell for cell in cells if cell.measured is not None]
    return render(
        "findings.md.jinja",
        scale=records.scale,
        settings=records.settings,
        runs=runs,
        cells_by_verdict={
            "a rebuilt error": _count(cell.verdict for cell in rebuilt if cell.cell.is_error),
            "a count (weights, multiply-adds)": _count(cell.verdict for cell in rebuilt if cell.cell.is_cost),
            "a fact of the papers' text": _count(cell.verdict for cell in rebuilt if cell.cell.is_fact),
        },
        claims_by_verdict=_count("post hoc" if each.claim.seen else each.verdict for each in judged),
        runs_by_state=_count(each.state for each in runs),
        judged=judged,
        describe_origin=claims.describe_origin,
        pictures=_find_pictures(records),
        errors=_error_rows([cell for cell in rebuilt if cell.cell.is_error], published),
        rule=verdict.state_rules(records.project, records.scale)["claims"],
        claims=[_claim_row(claim, published) for claim in judged],
        differing=_find_differing(cells),
        suspicions=partial(_test_suspicions, records),
        comparisons=[(result.claim, rows) for result in judged if (rows := _comparison_rows(result, published))],
        datasets=_tabulate_states(runs),
        times=[_time_row(row) for row in times],
        left=times[-1].left,
    )


def time_runs(records: Records, runs: list[RunState]) -> list[Times]:
    """The table of times of a scale by its own records alone: the same on every machine."""
    speeds = gather_speeds(runs, Speeds(records.costs))
    return tabulate_times(runs, speeds, choose_devices(speeds, records.settings.device))


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


def _error_rows(cells: list[FilledCell], published: bool) -> list[dict[str, str]]:
    """Each rebuilt error once, with the places where it stands."""
    places: dict[tuple[Any, ...], list[FilledCell]] = {}
    for cell in cells:
        key = (cell.digest, cell.cell.metric, cell.cell.tested_by, cell.cell.published)
        if cell.cell.published is None:  # a row of our own repeats a number of the papers' tables
            key = next((known for known in places if known[:3] == key[:3]), key)
        places.setdefault(key, []).append(cell)
    return [
        {
            "experiment": f"`{cell.name}`",
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
        "verdict": f"{judged.verdict} (post hoc)" if judged.claim.seen else f"**{judged.verdict}**",
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
        sides = [(f"`{name}`", side.text, str(len(side.values))) for name, side, _ in pair.both if side]
        texts = [text for side in sides for text in side]
        texts += [pair.difference, pair.verdict]
        if of_test:
            both = " and ".join(map(claims.format_published, pair.printed))
            texts += [both, pair.on_paper or ""]
        return texts

    rows = [row(pair) for pair in judged.pairs if pair.verdict not in (NOT_RUN, NO_COUNTERPART)]
    return [headers, *rows] if rows else []


def _find_differing(cells: list[FilledCell]) -> dict[str, list[str]]:
    """{experiment: what differs from the paper}."""
    differing: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.verdict == verdict.DIFFERS and cell.cell.is_error:
            text = f"{cell.text} where {cell.published_text} was published"
            differing.setdefault(cell.name, {})[text] = None
    return {name: list(texts) for name, texts in differing.items()}


def _test_suspicions(records: Records, name: str, metric: str) -> list[dict[str, Any]]:
    """The suspicions that params/claims.yaml names for an experiment or claim, and what their tests gave."""
    tested = []
    for suspicion in (each for each in records.project.claims.suspicions if each.of == name):
        sides, texts = [], []
        for name_of_side in (suspicion.against, suspicion.tested_by):
            experiment = records.project.resolve(name_of_side, records.scale)
            side = claims.measure_side(records, metric, experiment) if experiment else None
            sides.append(side)
            texts.append(f"`{name_of_side}` " + (f"{side.text} (n = {len(side.values)})" if side else "not run"))
        difference = "" if None in sides else claims.difference_text(sides[0], sides[1]) or "no difference to be told"
        tested.append({"says": suspicion.says, "texts": texts[::-1], "difference": difference})
    return tested


def _tabulate_states(runs: list[RunState]) -> list[dict[str, str]]:
    """How many runs on each dataset are in each state."""
    by_dataset: dict[str, Counter[str]] = {}
    for each in runs:
        by_dataset.setdefault(each.experiment.parameters["dataset"]["name"], Counter())[each.state] += 1
    return [
        {"dataset": name, "runs": str(states.total()), **{state: str(states[state] or "") for state in RECORDED_STATES}}
        for name, states in by_dataset.items()
    ]


def _time_row(row: Times) -> dict[str, str]:
    each = row.seconds_an_iteration
    return {
        "network": row.name,
        "runs": str(row.wanted),
        "done": str(row.done or ""),
        "device": row.device,
        "steps/s": "" if each is None else f"{1 / each:.3g}",
        "hours a run": "" if each is None else format_hours(each * (row.iterations or 0)),
        "memory, GiB": "" if row.peak_memory is None else f"{row.peak_memory / 2**30:.2f}",
        "hours spent": format_hours(row.seconds) if row.seconds else "",
        "hours to go": describe_left(row.left),
    }


def describe_left(left: Left | None) -> str:
    """Hours of the runs that are left; "~" where they are those of another network, scaled."""
    if left is None or not left.runs:
        return ""
    if left.unknown == left.runs:
        return "unknown"
    hours = f"~{left.seconds / 3600:,.0f}" if left.scaled else format_hours(left.seconds)
    return f"{hours}, without {left.unknown} runs" if left.unknown else hours
