"""results/README.md: what the runs say, of the papers' numbers and of their claims, and what they cost."""

from collections import Counter
from collections.abc import Iterable

from ..parameters import Project
from ..parameters.reports import TEST_ERROR
from ..parameters.work import GRADIENTS, Suspicion
from ..records.experiment import ARITHMETICS
from . import claims, order, times, verdict
from .cells import NO_COUNTERPART, Filled, Records
from .claims import CONTRADICTED, HOLDS, NOT_RUN, UNDECIDED, Judged, Pair, Side
from .markdown import grid
from .order import Wanted

NAME = "README.md"
TITLE = "# What the runs say"
MADE = """\
Made from the records beside it by `identity-mappings tables`: no number here is written by hand, and `identity-mappings
audit` walks each back to its parameters, data, sources and environment. [tables.md](tables.md) has the papers' tables,
[comparison.md](comparison.md) every cell with its verdict and the rule for it, [figures](figures) the curves."""
NOT_MEASURED = "not measured"
TIMES = """\
Hours are of the device, from the provenance of the runs: of several that were trained at once each counts by its
share, and a machine that was busy with other work counts in full. Hours to go are what a run took on the same device,
times the runs that are not done; they are not measured where none of that kind was begun. Multiply-adds are counted,
forward and backward: three times the forward ones of each image."""
PAPERS = {"he2015": "he2015", "he2016": "he2016", "own": "here"}


def page(project: Project, scale: str, records: Records, cells: list[Filled], judged: list[Judged]) -> str:
    """The page as Markdown."""
    runs = list(order.wanted(project, scale, records))
    settings = project.scale(scale)
    lines = [TITLE, "", MADE, ""]
    if not settings.published:
        lines += [f"**Scale `{scale}`.** {settings.description} So nothing here speaks of the papers' networks.", ""]
    lines += _in_short(runs, cells, judged)
    lines += ["## Errors beside the published ones", "", *_errors(cells)]
    lines += ["## Claims", "", claims.rule(project, scale), "", *_claims(judged)]
    lines += ["## Surprises", "", *_surprises(project, scale, records, cells, judged)]
    lines += ["## What was compared", "", *_comparisons(judged)]
    lines += ["## Order of work", "", *_order(runs, scale)]
    lines += ["## Time", "", *_times(project, records, runs)]
    return "\n".join(lines)


def _in_short(runs: list[Wanted], cells: list[Filled], judged: list[Judged]) -> list[str]:
    states, verdicts = Counter(one.state for one in runs), Counter(one.verdict for one in judged)
    counts = Counter(cell.verdict for cell in cells if cell.cell.is_cost and cell.measured is not None)
    errors = Counter(cell.verdict for cell in cells if not cell.cell.is_cost and cell.measured is not None)

    def said(counted: Counter[str]) -> str:
        return ", ".join(f"{word} {count}" for word, count in sorted(counted.items())) or "none"

    return [
        f"- Runs of the [order of work](#order-of-work): {len(runs)} wanted; {said(states)}.",
        f"- Cells with a rebuilt error: {errors.total()}; {said(errors)}."
        if errors
        else "- Cells with a rebuilt error: none.",
        f"- Cells with a count (weights, multiply-adds): {counts.total()}; {said(counts)}.",
        f"- Claims: {len(judged)}; {said(verdicts)}.",
        "",
    ]


def _errors(cells: list[Filled]) -> list[str]:
    """Each rebuilt error once, with the places where it stands."""
    measured = [cell for cell in cells if cell.measured is not None and not cell.cell.is_cost]
    if not measured:
        return ["No run is finished yet.", ""]
    places: dict[tuple, list[Filled]] = {}
    for cell in measured:
        key = (cell.experiment.digest, cell.cell.metric, cell.cell.tested_by, cell.cell.published)
        places.setdefault(key, []).append(cell)
    rows = []
    for found in places.values():
        first = found[0]
        where = dict.fromkeys(f"{PAPERS.get(cell.table.paper, cell.table.paper)} {cell.table.table}" for cell in found)
        devices = dict.fromkeys(times.spent(record).device for record in first.records)
        rows.append(
            [
                f"`{first.experiment.name}`",
                first.cell.metric,
                "; ".join(where),
                first.published_text,
                first.text,
                str(len(first.records)),
                _number(first.deviation, ".2f"),
                _number(first.best, ".2f"),
                _number(first.difference, "+.2f"),
                first.verdict,
                first.arithmetic,
                ", ".join(devices),
            ]
        )
    headers = [
        "experiment", "metric", "stands in", "published", "rebuilt", "n", "sd", "best of test", "difference", "verdict",
        "arithmetic", "device",
    ]  # fmt: skip
    return [grid(headers, rows), "", "*Best of test* is chosen on the test set and is not a result.", ""]


def _claims(judged: list[Judged]) -> list[str]:
    rows = []
    for one in judged:
        counts = [str(one.counts[word] or "") for word in (HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN)]
        source = f"{PAPERS.get(one.claim.paper, one.claim.paper)}, {one.claim.source}"
        rows.append([one.claim.says, source, one.claim.metric, *counts, f"**{one.verdict}**"])
    return [grid(["claim", "source", "metric", HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN, "verdict"], rows), ""]


def _comparisons(judged: list[Judged]) -> list[str]:
    lines = []
    for one in judged:
        metric = one.claim.metric
        pairs = [pair for pair in one.pairs if pair.verdict not in (NOT_RUN, NO_COUNTERPART)]
        if not pairs:
            continue
        headers = ["said to be lower", "measured", "n", "said to be higher", "measured", "n"]
        headers.append("higher by lower" if metric in GRADIENTS else "difference ± se")
        headers += ["published", "verdict"] if metric == TEST_ERROR else ["verdict"]
        rows = [_compared(pair, metric) for pair in pairs]
        lines += [f"### {one.claim.name}", "", f"{one.claim.says} ({metric})", "", grid(headers, rows), ""]
    return lines or ["Nothing yet: of no pair both networks were run.", ""]


def _compared(pair: Pair, metric: str) -> list[str]:
    row = []
    for name, side in zip(pair.names, (pair.lower, pair.higher), strict=True):
        row += [f"`{name}`", _value(side, metric), str(len(side.values))]
    low, high = pair.lower.value, pair.higher.value
    if low is None or high is None:
        row.append("")
    elif metric in GRADIENTS:
        row.append(f"{high / low:.2g} x" if low else "")
    else:
        row.append(f"{high - low:+.2f}" + ("" if pair.error is None else f" ± {pair.error:.2f}"))
    if metric == TEST_ERROR:
        row.append("" if None in pair.published else " and ".join(map(_published, pair.published)))
    return [*row, pair.verdict]


def _published(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def _value(side: Side, metric: str) -> str:
    """As the tables print it: errors in %, with the spread of the runs; gradients and losses with two digits."""
    if side.value is None:
        return verdict.FAIL
    form = ".2g" if metric in GRADIENTS else ".2f" if metric.endswith("%") else ".4f"
    text = format(side.value, form) + ("" if side.deviation is None else f" ± {side.deviation:{form}}")
    return text if side.arithmetic in ("", ARITHMETICS[0]) else f"{text} ({side.arithmetic})"


def _surprises(project: Project, scale: str, records: Records, cells: list[Filled], judged: list[Judged]) -> list[str]:
    """What differs from the paper, or contradicts it, each with its first suspicion."""
    lines = []
    differing = [cell for cell in cells if cell.verdict == verdict.DIFFERS and not cell.cell.is_cost]
    for name in dict.fromkeys(cell.experiment.name for cell in differing):
        mine = [cell for cell in differing if cell.experiment.name == name]
        texts = dict.fromkeys(f"{cell.text} where {cell.published_text} was published" for cell in mine)
        lines += [f"- `{name}`: {'; '.join(texts)}.", *_suspicions(project, scale, records, name, TEST_ERROR)]
    for one in judged:
        if one.verdict == CONTRADICTED:
            pairs = [pair for pair in one.pairs if pair.verdict == CONTRADICTED]
            names = "; ".join(
                f"`{pair.names[1]}` ({_value(pair.higher, one.claim.metric)}) is below `{pair.names[0]}` "
                f"({_value(pair.lower, one.claim.metric)})"
                for pair in pairs
            )
            lines.append(f'- "{one.claim.says}" ({one.claim.metric}): {names}.')
            lines += _suspicions(project, scale, records, one.claim.name, one.claim.metric)
    return [*(lines or ["None: no error differs from the published one, no claim is contradicted."]), ""]


def _suspicions(project: Project, scale: str, records: Records, of: str, metric: str) -> Iterable[str]:
    for suspicion in project.claims.suspicions:
        if suspicion.of == of:
            yield f"  - First suspicion: {suspicion.says} {_tested(project, scale, records, suspicion, metric)}"


def _tested(project: Project, scale: str, records: Records, suspicion: Suspicion, metric: str) -> str:
    texts = []
    for name in (suspicion.tested_by, suspicion.against):
        experiment = project.resolve(name, scale)
        side = claims.side_of(project, records, metric, experiment) if experiment else None
        texts.append(f"`{name}` " + (f"{_value(side, metric)} (n = {len(side.values)})" if side else "not run"))
    return f"Tested: {texts[0]} against {texts[1]}."


def _order(runs: list[Wanted], scale: str) -> list[str]:
    steps = {one.step.name: one.step for one in runs}
    rows = []
    for name, step in steps.items():
        states = Counter(one.state for one in runs if one.step.name == name)
        rows.append([name, step.why, str(states.total()), *(str(states[word] or "") for word in order.STATES)])
    lines = ["By worth: published, unpublished elsewhere and cheap first (`params/order.yaml`).", ""]
    lines += [grid(["runs", "why here", "wanted", *order.STATES], rows), ""]
    unfinished = [one for one in runs if one.state == order.UNFINISHED]
    if unfinished:
        lines += ["Unfinished; the checkpoints stay where these were trained, in `results/checkpoints/`:", ""]
        for one in unfinished:
            done, whole = one.record.metrics["iterations"], one.record.metrics["of_iterations"]
            lines.append(f"- `{one.experiment.name}`, seed {one.seed}: {done:,} of {whole:,} iterations.")
        lines.append("")
    for device, where in (("gpu", "With a GPU"), ("cpu", "Without one")):
        jobs = list(order.commands(runs, scale, device))
        if jobs:
            lines += [f"{where}, next (`identity-mappings next --device {device}` has the rest):", ""]
            lines += [*(f"    {line}" for line in jobs[0][1]), ""]
    return lines


def _times(project: Project, records: Records, runs: list[Wanted]) -> list[str]:
    rows = []
    for row in times.times(project, runs, records.costs()):
        each = row.seconds_an_iteration
        left = "" if row.done == row.wanted else NOT_MEASURED if row.seconds_left is None else _hours(row.seconds_left)
        rows.append(
            [
                row.name,
                f"{row.done} of {row.wanted}",
                row.device,
                "" if not each else f"{1 / each:.3g}",
                "" if not each else _hours(each * row.iterations),
                "" if row.peak_memory is None else f"{row.peak_memory / 2**30:.2f}",
                "" if row.seconds is None else _hours(row.seconds),
                left,
                "" if row.operations_left is None else f"{row.operations_left / 1e15:,.1f}",
            ]
        )
    headers = [
        "network", "done", "device", "steps/s", "hours a run", "memory, GiB", "hours spent", "hours to go",
        "10^15 multiply-adds to go",
    ]  # fmt: skip
    return [TIMES, "", grid(headers, rows), ""]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
