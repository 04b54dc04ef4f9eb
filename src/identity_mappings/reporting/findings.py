"""results/README.md: what the runs say, of the papers' numbers and of their claims, and what they cost."""

from collections import Counter

from ..parameters import Project
from ..parameters.claims import GRADIENTS, Suspicion
from ..parameters.models import Scale
from ..parameters.reports import TEST_ERROR
from ..records import run
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
TIMES = """\
Hours are of the device, from the provenance of the runs: of several that were trained at once each has an equal
share; a machine that was busy with other work counts in full, and what was lost between a checkpoint and a kill
does not count. Memory is that of a process. Hours to go are the iterations that are left times the seconds of one
on the same device, of the same network or else of its kind; the sums take {device}s only. Multiply-adds are counted,
forward and backward: three times the forward ones of each image."""


def page(project: Project, scale: str, records: Records, cells: list[Filled], judged: list[Judged]) -> str:
    """The page as Markdown."""
    runs = list(order.wanted(project, scale, records))
    settings = project.scale(scale)
    lines = [TITLE, "", MADE, ""]
    if not settings.published:
        lines += [f"**Scale `{scale}`.** {settings.description}", ""]
    lines += _in_short(runs, cells, judged)
    if settings.cannot_say:
        lines += ["## In words", "", *in_words(settings, judged)]
    lines += _pictures(project, records)
    compare = settings.published
    lines += ["## Errors beside the published ones", "", *_errors(cells, compare)]
    lines += ["## Claims", "", claims.rule(project, scale), "", *_claims(judged, compare)]
    lines += ["## Surprises", "", *_surprises(project, scale, records, cells, judged)]
    lines += ["## What was compared", "", *_comparisons(judged, compare)]
    lines += ["## Order of work", "", *_order(runs, scale)]
    lines += ["## Time", "", *_times(project, records, runs)]
    return "\n".join(lines)


def _in_short(runs: list[Wanted], cells: list[Filled], judged: list[Judged]) -> list[str]:
    states = Counter(one.state for one in runs)
    verdicts = Counter("made after it was seen" if one.claim.seen else one.verdict for one in judged)
    counts = Counter(cell.verdict for cell in cells if cell.cell.is_cost and cell.measured is not None)
    errors = Counter(cell.verdict for cell in cells if cell.cell.is_error and cell.measured is not None)

    def said(counted: Counter[str]) -> str:
        return ", ".join(f"{word} {count}" for word, count in sorted(counted.items())) or "none"

    return [
        f"- Runs of the [order of work](#order-of-work): {len(runs)} wanted; {said(states)}.",
        f"- Cells with a rebuilt error: {said(errors)}.",
        f"- Cells with a count (weights, multiply-adds): {said(counts)}.",
        f"- Claims: {said(verdicts)}.",
        "",
    ]


def in_words(settings: Scale, judged: list[Judged]) -> list[str]:
    """The claims by verdict, and what the scale cannot say, as Markdown lists."""
    headings = {
        HOLDS: "Holds at this scale",
        CONTRADICTED: "Does not hold at this scale",
        UNDECIDED: "Undecided: all of it was run, and the runs cannot tell the networks apart",
        claims.OPEN: "Open: not all of it was run yet",
        NOT_RUN: "Not run yet",
        NO_COUNTERPART: "Without a counterpart at this scale",
    }
    lines = []
    for verdict_, heading in headings.items():
        found = [one for one in judged if one.verdict == verdict_ and not one.claim.seen]
        if found:
            lines += [f"**{heading}**", ""]
            lines += [f"- {one.claim.says} ({_origin(one)}{_detail(one)})" for one in found]
            lines.append("")
    return [*lines, "**What this scale cannot say**", "", *(f"- {text}" for text in settings.cannot_say), ""]


def _origin(judged: Judged) -> str:
    claim = judged.claim
    return ("ours" if claim.paper == "own" else f"{claim.paper}; {claim.source}") + f"; {claim.metric}"


def _detail(judged: Judged) -> str:
    runs = [len(side.values) for pair in judged.pairs for side in pair.sides]
    fewest = f"; runs of a network: {min(runs)}" + (f" to {max(runs)}" if max(runs) > min(runs) else "") if runs else ""
    counts = _counted(judged.counts)
    return f"; comparisons: {counts}{fewest}" if counts else ""


def _pictures(project: Project, records: Records) -> list[str]:
    """The figures of curves and signals of which something was measured."""
    trained = {
        record.metrics["experiment"] for record in records.runs.values() if record.metrics["status"] in run.FINAL
    }
    measured = {experiment.name for experiment in records.signals.values()}
    lines = []
    for name, figure in project.figures.items():
        of = trained if figure.kind == "curves" else measured if figure.kind == "signals" else set()
        if of & set(figure.experiments):
            lines += [f"![{_place(figure.paper, figure.figure)}: {figure.title}](figures/{name}.png)", ""]
    return lines


def _errors(cells: list[Filled], compare: bool) -> list[str]:
    """Each rebuilt error once, with the places where it stands.

    Args:
        compare: whether the published errors are of the same networks and data.
    """
    measured = [cell for cell in cells if cell.measured is not None and cell.cell.is_error]
    if not measured:
        return ["No run is finished yet.", ""]
    places: dict[tuple, list[Filled]] = {}
    for cell in measured:
        key = (cell.experiment.digest, cell.cell.metric, cell.cell.tested_by, cell.cell.published)
        if cell.cell.published is None:  # a row of our own repeats a number of the papers' tables
            key = next((known for known in places if known[:3] == key[:3]), key)
        places.setdefault(key, []).append(cell)
    rows = []
    for found in places.values():
        first = found[0]
        devices = dict.fromkeys(times.spent(record).device for record in first.records)
        rows.append(
            [
                f"`{first.experiment.name}`",
                first.cell.metric,
                "; ".join(dict.fromkeys(_place(cell.table.paper, cell.table.table) for cell in found)),
                first.published_text if compare else "",
                first.text,
                str(len(first.records)),
                "" if first.deviation is None else f"{first.deviation:.2f}",
                "" if first.best is None else f"{first.best:.2f}",
                f"{first.difference:+.2f}" if compare and first.difference is not None else "",
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


def _place(paper: str, text: str) -> str:
    return text if paper == "own" else f"{paper}, {text}"


def _claims(judged: list[Judged], compare: bool) -> list[str]:
    rows = []
    for one in judged:
        source = ("ours; " if one.claim.paper == "own" else f"{one.claim.paper}, ") + one.claim.source
        judgement = f"{one.verdict} (made after it was seen)" if one.claim.seen else f"**{one.verdict}**"
        rows.append([one.claim.says, source, one.claim.metric, _counted(one.counts), judgement])
        if compare:
            rows[-1].append(_counted(one.on_paper))
    headers = ["claim", "source", "metric", "comparisons", "verdict", *(["on paper"] if compare else [])]
    return [grid(headers, rows), ""]


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[word]} {word}" for word in (HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN) if counts[word])


def _comparisons(judged: list[Judged], compare: bool) -> list[str]:
    lines = []
    for one in judged:
        metric = one.claim.metric
        pairs = [pair for pair in one.pairs if pair.verdict not in (NOT_RUN, NO_COUNTERPART)]
        if not pairs:
            continue
        published = compare and metric == TEST_ERROR
        headers = ["said to be lower", "measured", "n", "said to be higher", "measured", "n"]
        headers.append("higher by lower" if metric in GRADIENTS else "difference ± se")
        headers += ["verdict", "published", "on paper"] if published else ["verdict"]
        rows = [_compared(pair, metric, published) for pair in pairs]
        lines += [f"### {one.claim.name}", "", f"{one.claim.says} ({metric})", "", grid(headers, rows), ""]
    return lines or ["Nothing yet: of no pair both networks were run.", ""]


def _compared(pair: Pair, metric: str, published: bool) -> list[str]:
    row = []
    for name, side in zip(pair.names, (pair.lower, pair.higher), strict=True):
        row += [f"`{name}`", value_text(side, metric), str(len(side.values))]
    row += [difference_text(pair.lower, pair.higher, metric, pair.error), pair.verdict]
    if published:
        row.append("" if None in pair.published else " and ".join(map(published_text, pair.published)))
        row.append(pair.on_paper or "")
    return row


def difference_text(lower: Side, higher: Side, metric: str, error: float | None) -> str:
    """How far one lies above the other: a factor of gradients, else points."""
    if lower.value is None or higher.value is None:
        return ""
    if metric in GRADIENTS:
        return f"{higher.value / lower.value:.2g} x" if lower.value else ""
    return f"{higher.value - lower.value:+.2f}" + ("" if error is None else f" ± {error:.2f}")


def published_text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def value_text(side: Side, metric: str) -> str:
    """As the tables print it: errors in %, with the spread of the runs; gradients and losses with their digits."""
    form = ".2g" if metric in GRADIENTS else ".2f" if metric.endswith("%") else ".4f"
    none = "no number" if metric in GRADIENTS else verdict.FAIL
    text = none if side.value is None else format(side.value, form)
    if side.deviation is not None:
        text += f" ± {side.deviation:{form}}"
    if diverged := len(side.values) - len(side.finite):
        text += f" ({diverged} diverged)"
    return text if side.arithmetic in ("", ARITHMETICS[0]) else f"{text} ({side.arithmetic})"


def _surprises(project: Project, scale: str, records: Records, cells: list[Filled], judged: list[Judged]) -> list[str]:
    """What differs from the paper, or contradicts it, each with its first suspicion."""
    lines = []
    differing = [cell for cell in cells if cell.verdict == verdict.DIFFERS and cell.cell.is_error]
    for name in dict.fromkeys(cell.experiment.name for cell in differing):
        mine = [cell for cell in differing if cell.experiment.name == name]
        texts = dict.fromkeys(f"{cell.text} where {cell.published_text} was published" for cell in mine)
        lines += [f"- `{name}`: {'; '.join(texts)}.", *_suspicions(project, scale, records, name, TEST_ERROR)]
    for one in judged:
        if one.verdict == CONTRADICTED:
            texts = [
                f"`{pair.names[1]}` ({value_text(pair.higher, one.claim.metric)}) is below `{pair.names[0]}` "
                f"({value_text(pair.lower, one.claim.metric)})"
                for pair in one.pairs
                if pair.verdict == CONTRADICTED
            ]
            lines.append(f'- "{one.claim.says}" ({one.claim.metric}): {"; ".join(texts)}.')
            lines += _suspicions(project, scale, records, one.claim.name, one.claim.metric)
    return [*(lines or ["None: no error differs from the published one, no claim is contradicted."]), ""]


def _suspicions(project: Project, scale: str, records: Records, of: str, metric: str) -> list[str]:
    found = [one for one in project.claims.suspicions if one.of == of]
    if not found:
        return ["  - No suspicion is named yet (`params/claims.yaml`)."]
    return [f"  - First suspicion: {one.says} {_tested(project, scale, records, one, metric)}" for one in found]


def _tested(project: Project, scale: str, records: Records, suspicion: Suspicion, metric: str) -> str:
    sides, texts = [], []
    for name in (suspicion.against, suspicion.tested_by):
        experiment = project.resolve(name, scale)
        side = claims.side_of(project, records, metric, experiment) if experiment else None
        sides.append(side)
        texts.append(f"`{name}` " + (f"{value_text(side, metric)} (n = {len(side.values)})" if side else "not run"))
    text = f"Tested: {texts[1]} against {texts[0]}"
    if None in sides:
        return f"{text}."
    return f"{text}: {difference_text(*sides, metric, None) or 'no difference to be told'}."


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
    places = (("gpu", "With a GPU"), ("cpu", "Without one"))
    if all(step.device == "cpu" for step in steps.values()):
        places = (("cpu", "On a CPU"),)
    for device, where in places:
        jobs = list(order.commands(runs, scale, device))
        if jobs:
            words = f"identity-mappings next --device {device}" + ("" if scale == "paper" else f" --scale {scale}")
            lines += [f"{where}, next (`{words}` has the rest):", ""]
            lines += [*(f"    {line}" for line in jobs[0][1]), ""]
    return lines


def _times(project: Project, records: Records, runs: list[Wanted]) -> list[str]:
    rows = []
    for row in times.times(project, runs, records.costs()):
        each = row.seconds_an_iteration
        rows.append(
            [
                row.name,
                str(row.wanted),
                str(row.done or ""),
                row.device,
                "" if each is None else f"{1 / each:.3g}",
                "" if each is None else _hours(each * row.iterations),
                "" if row.peak_memory is None else f"{row.peak_memory / 2**30:.2f}",
                "" if row.seconds is None else _hours(row.seconds),
                left_text(row.left),
                "" if row.operations_left is None else f"{row.operations_left / 1e15:,.1f}",
            ]
        )
    headers = [
        "network", "runs", "done", "device", "steps/s", "hours a run", "memory, GiB", "hours spent", "hours to go",
        "10^15 multiply-adds to go",
    ]  # fmt: skip
    return [TIMES.format(device=times.summed_device(project, runs)), "", grid(headers, rows), ""]


def left_text(left: times.Left) -> str:
    if not left.unknown_runs:
        return _hours(left.seconds) if left.runs else ""
    if left.unknown_runs == left.runs:
        return "not measured"
    kinds = f" of {left.unknown_kinds} kinds" if left.unknown_kinds > 1 else ""
    return f"at least {_hours(left.seconds)}; {left.unknown_runs} runs{kinds} not measured"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.2f}" if hours >= 0.1 else f"{hours:.2g}"
