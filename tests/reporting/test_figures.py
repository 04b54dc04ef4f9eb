"""The figures: what they show, on which axes, and that the same records give the same bytes."""

import csv
import io
from itertools import pairwise

import pytest

from identity_mappings.records import measurement, run
from identity_mappings.records.measurement import RESPONSES_CSV, SIGNALS_CSV, get_responses_folder, get_signals_folder
from identity_mappings.reporting import figures
from identity_mappings.reporting.store import Records

RESNET, BN = "cifar10-resnet110", "cifar10-resnet110-bn-after-addition"
COLUMNS = ["panel", "curve", "seed", "iteration", "learning_rate", "training_loss", "training_error"]
COLUMNS += ["test_loss", "test_error"]


def only(bench, *figures_: str) -> None:
    """Leave out all other figures: drawing takes its time."""
    for path in (bench.root / "params" / "figures").iterdir():
        if path.stem not in figures_:
            path.unlink()


def curve(*rows: str) -> bytes:
    return "\n".join(["iteration,learning_rate,training_loss,training_error,test_loss,test_error", *rows, ""]).encode()


def draw(bench, name: str = "he2016-figure6", scale: str = "paper"):
    project = bench.project
    return figures.draw_figure(Records(project, scale), project.figures[name])


def axes(drawing, panel: int = 0):
    """A panel's left axis, of the loss, and its right one, of the error."""
    panels = len(drawing.axes) // 2
    return drawing.axes[panel], drawing.axes[panels + panel]


def labels(right) -> list[str]:
    return [text.get_text() for text in right.get_legend().get_texts()]


def points(line) -> list[tuple[float, float]]:
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def content(bench, scale: str = "paper") -> dict[str, bytes]:
    folder = bench.root / bench.project.scale(scale).results / "figures"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_loss_is_dashed_on_a_logarithmic_left_axis_and_error_solid_on_the_right(bench):
    bench.record(
        RESNET, 6.5, curve=curve("10,0.1,2.5,60,,", "20,0.1,0.5,20,1.5,30", "30,0.1,0.25,9,,", "40,0.1,0.125,3,0.4,6.5")
    )
    left, right = axes(draw(bench)[0])
    [loss], [error, not_run] = left.get_lines(), right.get_lines()
    assert (loss.get_linestyle(), left.get_yscale(), left.get_ylabel()) == ("--", "log", "training loss (dashed)")
    assert points(loss) == [(10, 2.5), (20, 0.5), (30, 0.25), (40, 0.125)]
    assert (error.get_linestyle(), right.get_yscale(), right.get_ylabel()) == ("-", "linear", "test error, % (solid)")
    assert points(error) == [(20, 30), (40, 6.5)]
    assert loss.get_color() == error.get_color() != not_run.get_color()
    assert right.yaxis.get_label_position() == "right"
    assert left.get_xlim() == (0, 40)
    assert (left.get_ylim(), right.get_ylim()) == ((0.002, 2), (0, 20)), "as the paper's"


def test_a_panel_shows_the_curves_of_its_own_experiments(bench):
    bench.record(BN, 8.0, curve=curve("7,0.1,2,50,1,8"))
    bench.record("cifar10-resnet164-full-pre-activation", 5.5, curve=curve("9,0.1,2,50,1,5.5"))
    drawing, _ = draw(bench)
    first, second = axes(drawing, 0)[1], axes(drawing, 1)[1]
    assert labels(first) == ["110, original: not run", "110, BN after add: 8.00 %"]
    assert labels(second) == ["164, original: not run", "164, proposed (pre-activation): 5.50 %"]
    assert [points(line) for line in first.get_lines()] == [[], [(7, 8)]]
    assert [points(line) for line in second.get_lines()] == [[], [(9, 5.5)]]
    titles = [axes(drawing, panel)[0].get_title() for panel in (0, 1)]
    assert titles == ["BN after addition", "pre-activation"]


@pytest.mark.parametrize(
    ("errors", "seed", "label"),
    [
        ([6.0], 0, "6.00 %"),
        ([6.0, 5.0], 1, "5.00 %"),  # the lower of two
        ([5.0, 9.0, 6.0], 2, "6.00 %"),
        ([9.0, 6.0, 5.0, 7.0], 1, "6.00 %"),
        ([None, 9.0, 6.0], 1, "9.00 %"),  # a diverged run is above all others
        ([None, None, 6.0], 0, "diverged"),
        ([None], 0, "diverged"),
    ],
)
def test_the_curve_is_that_of_the_median_run(bench, errors, seed, label):
    for number, error in enumerate(errors):
        bench.record(RESNET, error, number, curve=curve(f"{100 + number},0.1,2,50,1,30"))
    drawing, data = draw(bench)
    left, right = axes(drawing)
    assert labels(right)[0] == f"110, original: {label}"
    assert points(left.get_lines()[0]) == [(100 + seed, 2)]
    assert set(data["seed"]) == set(range(len(errors))), "all of them, for the band"


def test_a_run_that_diverged_before_its_first_test_or_row(bench):
    only(bench, "he2016-figure6")
    bench.record(RESNET, None, curve=curve("100,0.1,2.5,88,,"))
    bench.record(BN, None, curve=curve())
    left, right = axes(draw(bench)[0])
    assert labels(right) == ["110, original: diverged", "110, BN after add: diverged"]
    assert [points(line) for line in left.get_lines()] == [[(100, 2.5)], []]
    figures.write_figures("paper", bench.root)


def test_a_figure_without_records_is_made_and_says_so(bench):
    drawing, data = draw(bench, "he2016-figure3")
    assert all(label.endswith(": not run") for panel in range(4) for label in labels(axes(drawing, panel)[1]))
    assert len(data) == 0 and list(data.columns) == COLUMNS


def test_no_counterpart_and_the_scale_are_named(bench):
    bench.copy.edit("params/scales/tiny.yaml", "bottleneck: {164: 11,", "bottleneck: {164: null,")
    bench.record(RESNET, 90.0, scale="tiny")
    drawing, _ = draw(bench, scale="tiny")
    assert labels(axes(drawing, 0)[1])[0] == "110, original: 90.00 %"
    assert labels(axes(drawing, 1)[1]) == [
        "164, original: no counterpart",
        "164, proposed (pre-activation): no counterpart",
    ]
    assert "scale tiny" in drawing.get_suptitle()
    right = axes(drawing)[1]
    assert right.get_ylim()[0] == 0 and list(right.get_yticks()) == [0, 20, 40, 60, 80, 100]


@pytest.mark.parametrize("name", ["he2015-figure6", "he2016-figure1", "he2016-figure3", "he2016-figure6"])
def test_the_legend_covers_no_error_of_another_scale(bench, name):
    """Whatever the error, it is in sight: all of 0 to 100 % lies in the axes, and below the legend."""
    only(bench, name)
    drawing, _ = draw(bench, name, scale="tiny")
    drawing.draw_without_rendering()
    panels = len(bench.project.figures[name].panels)
    for place in range(panels):
        right = drawing.axes[-panels:][place]  # of a panel without losses the only axis
        bottom = right.get_legend().get_window_extent().y0
        assert right.transData.transform((0, 100))[1] <= bottom, place


def test_an_unfinished_run_and_one_that_is_not_believed_have_no_curve(bench):
    bench.record(RESNET, 6.0, status="unfinished")
    (bench.record(BN, 8.0) / "provenance.json").unlink()
    drawing, data = draw(bench)
    assert labels(axes(drawing)[1]) == ["110, original: not run", "110, BN after add: not run"]
    assert len(data) == 0


def test_every_curve_of_a_panel_is_shown(bench):
    """However many: those without a colour of their own are not left out."""
    more = "".join(f"\n      - {{label: curve {number}, experiment: {RESNET}}}" for number in range(6))
    bench.copy.edit("params/figures/he2016-figure1.yaml", "cifar10-resnet1001-full-pre-activation}", f"{BN}}}{more}")
    right = axes(draw(bench, "he2016-figure1")[0])[1]
    assert len(labels(right)) == 8


def test_a_place_without_a_panel_is_empty(bench):
    """Of five panels in rows of two; three stand in one row, as in he2015, Figure 6."""
    path = bench.root / "params/figures/he2016-figure3.yaml"
    three = path.read_text()[: path.read_text().index("  - title: (d)")]
    fourth = path.read_text()[path.read_text().index("  - title: (d)") :]
    path.write_text(three + fourth + fourth)
    drawing, _ = draw(bench, "he2016-figure3")
    assert [left.get_visible() for left in drawing.axes[:6]] == [True] * 5 + [False]
    path.write_text(three)
    drawing, _ = draw(bench, "he2016-figure3")
    assert all(left.get_visible() for left in drawing.axes)
    assert len({left.get_position().y0 for left in drawing.axes}) == 1


def test_the_csv_holds_what_is_drawn(bench, blank_figures):
    only(bench, "he2016-figure6")
    bench.record(RESNET, 6.5, 0, curve=curve("10,0.1,2.5,60,,", "20,0.01,0.5,20,1.5,6.5"))
    figures.write_figures("paper", bench.root)
    table = content(bench)["he2016-figure6.csv"]
    assert b"\r" not in table
    rows = list(csv.reader(io.StringIO(table.decode())))
    assert rows == [
        COLUMNS,
        ["BN after addition", "110, original", "0", "10", "0.1", "2.5", "60", "", ""],
        ["BN after addition", "110, original", "0", "20", "0.01", "0.5", "20", "1.5", "6.5"],
    ]


def test_the_spread_of_seeds_is_a_band(bench):
    """From the lowest to the highest at each iteration; the line is the run with the median error."""
    only(bench, "he2016-figure6")
    for seed, error in enumerate((6.5, 8.5, 7.0)):
        bench.record(
            RESNET, error, seed, curve=curve(f"10,0.1,{2 + seed},60,,", f"20,0.01,{0.5 + seed},20,1.5,{error}")
        )
    drawing, data = draw(bench)
    left, right = axes(drawing)
    [loss], [error] = left.collections, right.collections
    assert loss.get_paths()[0].get_extents().get_points().tolist() == [[10, 0.5], [20, 4]]
    assert error.get_paths()[0].get_extents().get_points().tolist() == [[20, 6.5], [20, 8.5]]
    assert labels(right)[0] == "110, original: 7.00 %"
    assert left.lines[0].get_ydata().tolist() == [4, 2.5]
    assert data.query("curve == '110, original'")["seed"].tolist() == [0, 0, 1, 1, 2, 2]


def some_records(bench) -> None:
    for seed, error in enumerate([6.5, 6.7, None]):
        bench.record(RESNET, error, seed)
    bench.record("cifar10-resnet1001", 7.6)
    bench.record("cifar10-resnet164", None)


def test_the_same_records_give_the_same_bytes(bench):
    """In this process twice, and in another with another order of hashes and another clock."""
    only(bench, "he2016-figure1", "he2016-figure6")
    some_records(bench)
    figures.write_figures("paper", bench.root)
    first = content(bench)
    names = {f"he2016-figure{number}.{form}" for number in (1, 6) for form in ("svg", "png", "csv")}
    assert set(first) == names
    figures.write_figures("paper", bench.root)
    assert content(bench) == first
    answer = bench.copy.command("figures", PYTHONHASHSEED="7", SOURCE_DATE_EPOCH="86400")
    assert answer.returncode == 0, answer.stdout
    assert content(bench) == first
    picture = first["he2016-figure6.svg"].decode()
    for line in ("110, original: 6.70 %", "110, original: 6.70 %, training"):
        assert picture.count(f"<title>{line}</title>") == 1, "what a line is, under the pointer"
    for name, picture in first.items():
        assert b"<dc:date>" not in picture and b"Matplotlib" not in picture, name
        assert str(bench.root).encode() not in picture, name


def test_another_record_changes_the_figures_that_show_it(bench):
    only(bench, "he2016-figure1", "he2016-figure6")
    some_records(bench)
    figures.write_figures("paper", bench.root)
    before = content(bench)
    folder = bench.folder("cifar10-resnet1001")
    bench.record("cifar10-resnet1001", 8.1, curve=(folder / run.CURVE).read_bytes())
    figures.write_figures("paper", bench.root)
    changed = {name for name, picture in content(bench).items() if picture != before[name]}
    assert changed == {"he2016-figure1.svg", "he2016-figure1.png"}


def test_he2015_figure_6_draws_training_error_on_the_axis_of_the_test_error(bench):
    bench.record("cifar10-plain20", 8.0, curve=curve("10,0.1,2.5,60,,", "20,0.01,0.5,20,1.5,30", "40,0.01,0.1,3,0.4,8"))
    drawing, data = draw(bench, "he2015-figure6")
    assert len(drawing.axes) == 3, "no second axis"
    left = drawing.axes[0]
    dashed, solid = left.get_lines()[:2]
    assert (dashed.get_linestyle(), solid.get_linestyle(), left.get_yscale()) == ("--", "-", "linear")
    assert points(dashed) == [(10, 60), (20, 20), (40, 3)], "the error, not the loss"
    assert points(solid) == [(20, 30), (40, 8)]
    assert dashed.get_color() == solid.get_color()
    assert left.get_ylim() == (0, 20), "as the paper's"
    assert "training (dashed), test (solid)" in left.get_ylabel()
    assert labels(left) == [
        "plain-20: 8.00 %", *(f"plain-{depth}: not run" for depth in (32, 44, 56, 110))
    ]  # fmt: skip
    assert list(data["training_error"]) == [60, 20, 3]


# Units: he2016, Figures 2, 4 and 5


def graph(bench, name: str, panel: int) -> list[tuple[str, str]]:
    """The edges of a panel, as labels: "BN 2" is its second BN."""
    data = draw(bench, name)[1]
    rows = [row for row in data.itertuples() if row.panel == data["panel"].unique()[panel]]
    names: dict[str, str] = {}
    for row in rows:
        count = sum(other.label == row.label for other in rows[: [r.operation for r in rows].index(row.operation) + 1])
        names[row.operation] = f"{row.label} {count}" if sum(r.label == row.label for r in rows) > 1 else row.label
    return [(names[source], names[row.operation]) for row in rows for source in row.inputs.split()]


def chain(*labels: str) -> set[tuple[str, str]]:
    return set(pairwise(labels))


CONV = "3x3 conv, 16"
RESIDUAL = (f"{CONV} 1", "BN 1", "ReLU 1", f"{CONV} 2", "BN 2")
GATE = chain("x", "1x1 conv + b", "sigmoid", "1 -")
EDGES = {
    ("he2016-figure2", "a"): chain("x", *RESIDUAL, "+", "ReLU 2") | {("x", "+")},
    ("he2016-figure2", "b"): chain("x", *RESIDUAL, "× 0.5 1", "+", "ReLU 2") | chain("x", "× 0.5 2", "+"),
    # The sigmoid gates F, and one minus it the shortcut.
    ("he2016-figure2", "c"): chain("x", *RESIDUAL, "× 2", "+", "ReLU 2") | GATE
    | chain("1 -", "× 1", "+") | {("x", "× 1"), ("sigmoid", "× 2")},
    ("he2016-figure2", "d"): chain("x", *RESIDUAL, "+", "ReLU 2") | GATE | chain("1 -", "×", "+") | {("x", "×")},
    ("he2016-figure2", "e"): chain("x", *RESIDUAL, "+", "ReLU 2") | chain("x", "1x1 conv, 16", "BN 3", "+"),
    ("he2016-figure2", "f"): chain("x", *RESIDUAL, "+", "ReLU 2") | chain("x", "dropout 0.5", "+"),
    ("he2016-figure4", "a"): chain("x", *RESIDUAL, "+", "ReLU 2") | {("x", "+")},
    ("he2016-figure4", "b"): chain("x", *RESIDUAL[:4], "+", "BN 2", "ReLU 2") | {("x", "+")},
    ("he2016-figure4", "c"): chain("x", *RESIDUAL, "ReLU 2", "+") | {("x", "+")},
    ("he2016-figure4", "d"): chain("x", "ReLU 1", f"{CONV} 1", "BN 1", "ReLU 2", f"{CONV} 2", "BN 2", "+")
    | {("x", "+")},
    ("he2016-figure4", "e"): chain("x", "BN 1", "ReLU 1", f"{CONV} 1", "BN 2", "ReLU 2", f"{CONV} 2", "+")
    | {("x", "+")},
    ("he2016-figure5", "a"): chain("x", *RESIDUAL, "+ 1", "ReLU 2")
    | chain("ReLU 2", f"{CONV} 3", "BN 3", "ReLU 3", f"{CONV} 4", "BN 4", "+ 2", "ReLU 4")
    | {("x", "+ 1"), ("ReLU 2", "+ 2")},
    # The activation behind an addition reaches F alone: the shortcut goes from addition to addition.
    ("he2016-figure5", "b"): chain("x", "BN 1", "ReLU 1", f"{CONV} 1", "BN 2", "ReLU 2", f"{CONV} 2", "+ 1")
    | chain("+ 1", "BN 3", "ReLU 3", f"{CONV} 3", "BN 4", "ReLU 4", f"{CONV} 4", "+ 2", "BN 5", "ReLU 5")
    | {("x", "+ 1"), ("+ 1", "+ 2")},
    ("he2016-figure5", "c"): chain("x", "BN 1", "ReLU 1", f"{CONV} 1", "BN 2", "ReLU 2", f"{CONV} 2", "+ 1")
    | chain("+ 1", "BN 3", "ReLU 3", f"{CONV} 3", "BN 4", "ReLU 4", f"{CONV} 4", "+ 2")
    | {("x", "+ 1"), ("+ 1", "+ 2")},
}  # fmt: skip


@pytest.mark.parametrize(("name", "panel"), EDGES)
def test_units_are_drawn_as_the_paper_draws_them(bench, name, panel):
    found = graph(bench, name, "abcdef".index(panel))
    assert set(found) == EDGES[name, panel]
    assert len(found) == len(EDGES[name, panel])


def test_the_csv_of_units_holds_what_is_drawn(bench, blank_figures):
    only(bench, "he2016-figure4")
    figures.write_figures("paper", bench.root)
    table = content(bench)["he2016-figure4.csv"].decode()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert list(rows[0]) == ["panel", "operation", "label", "branch", "unit", "inputs"]
    of_e = [row for row in rows if row["panel"] == "(e) full pre-activation"]
    assert [row["label"] for row in of_e] == ["x", "BN", "ReLU", CONV, "BN", "ReLU", CONV, "+"], "nothing behind the +"
    assert [row["branch"] for row in of_e] == ["trunk", *["residual"] * 6, "trunk"]
    drawing, _ = draw(bench, "he2016-figure4")
    texts = [[text.get_text() for text in axes_.texts if text.get_text()] for axes_ in drawing.axes]
    assert [label for panel in texts for label in panel] == [row["label"] for row in rows]
    assert texts[4] == [row["label"] for row in of_e]


def test_units_without_a_counterpart_are_left_out_and_named(bench):
    bench.copy.edit("params/figures/he2016-figure4.yaml", "cifar10-resnet110-bn-after-addition", "cifar100-resnet164")
    drawing, data = draw(bench, "he2016-figure4", "demo")
    assert drawing.axes[1].get_title() == "(b) BN after addition: no counterpart"
    assert data["panel"].nunique() == 4
    assert "scale demo" in drawing.get_suptitle()


@pytest.mark.parametrize(
    ("old", "new"),
    [("experiment: cifar10-resnet110}", "experiment: cifar10-resnet110, first: 54}"),
     ("experiment: cifar10-resnet110}", "experiment: imagenet-vgg16}")],
    ids=["more units than there are", "a network without units"],
)  # fmt: skip
def test_units_that_a_network_does_not_have_are_a_mistake_in_params(bench, old, new):
    only(bench, "he2016-figure4")
    bench.copy.edit("params/figures/he2016-figure4.yaml", old, new)
    answer = bench.copy.command("figures")
    assert answer.returncode == 2 and len(answer.stdout.splitlines()) == 1, answer.stdout[-300:]
    assert "he2016-figure4.yaml" in answer.stdout


# Signals and responses


def measured(bench, name: str, rows: list[str], kind: str = "signals", **provenance) -> None:
    """Lay down a record of signals or of responses that would be believed."""
    project = bench.project
    experiment, settings = project.resolve(name), project.scale("paper")
    results = bench.root / settings.results
    origin = {"settings": {"digest": experiment.digest}, **provenance}
    if kind == "signals":
        folder, file = get_signals_folder(results, experiment, settings.signal_iterations), SIGNALS_CSV
        header = "iteration,unit,channels,size,forward_norm,gradient_norm"
    else:
        folder, file = get_responses_folder(results, experiment, 0), RESPONSES_CSV
        header = "layer,name,standard_deviation"
    measurement.write_measurement(folder, file, "\n".join([header, *rows, ""]).encode(), origin)


SIGNALS = ["0,0,16,32,2.5,0.5", "0,1,16,32,5,0.25", "20,0,16,32,3,0.125", "20,1,16,32,0,0.0625"]
RESPONSES = ["1,stem.0,0.5", "2,units.0,0.25", "3,units.1,2"]


def test_a_figure_of_signals_shows_both_norms_before_and_after(bench):
    measured(bench, "cifar10-resnet164", SIGNALS)
    drawing, data = draw(bench, "own-signals")
    left, right = drawing.axes[4:6]  # the third panel
    assert left.get_title() == "activations of ResNet-164 (he2016, Table 2)"
    for axes_, before, after in ((left, [2.5, 5], [3, 1e-300]), (right, [0.5, 0.25], [0.125, 0.0625])):
        drawn = [line for line in axes_.get_lines() if len(line.get_xdata())]
        assert [(line.get_linestyle(), list(line.get_ydata())) for line in drawn] == [("--", before), ("-", after)]
        assert axes_.get_yscale() == "log"
    assert labels(right) == [
        "original", *(f"{case}: not measured" for case in (
            "BN after addition", "ReLU before addition", "ReLU-only pre-activation", "full pre-activation"))
    ]  # fmt: skip
    assert set(data["curve"]) == {"original"} and list(data["forward_norm"]) == [2.5, 5, 3, 0]
    iterations = bench.project.scale("paper").signal_iterations
    assert f"after {iterations} iterations" in drawing.get_supxlabel()


def test_a_figure_of_responses_shows_them_in_order_and_sorted(bench):
    measured(bench, "cifar10-plain56", RESPONSES, "responses")
    drawing, data = draw(bench, "he2015-figure7")
    above, below = drawing.axes
    drawn = [line for line in above.get_lines() if len(line.get_xdata())]
    assert [points(line) for line in drawn] == [[(1, 0.5), (2, 0.25), (3, 2)]]
    assert [points(line) for line in below.get_lines()] == [[(1, 2), (2, 0.5), (3, 0.25)]], "the largest first"
    assert labels(above) == [
        "plain-20: not measured", "plain-56", *(f"ResNet-{depth}: not measured" for depth in (20, 56, 110))
    ]  # fmt: skip
    assert list(data.columns) == ["panel", "curve", "layer", "name", "standard_deviation"]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("own-signals", ["panel", "curve", "iteration", "unit", "channels", "size", "forward_norm", "gradient_norm"]),
        ("he2015-figure7", ["panel", "curve", "layer", "name", "standard_deviation"]),
    ],
)
def test_without_a_measurement_the_figure_says_so(bench, name, columns):
    drawing, data = draw(bench, name)
    shown = [label for axes_ in drawing.axes if axes_.get_legend() for label in labels(axes_)]
    assert len(shown) == len(bench.project.figures[name].experiments)
    assert all(label.endswith(": not measured") for label in shown)
    assert (len(data), list(data.columns)) == (0, columns)
    assert all(len(line.get_xdata()) == 0 for axes_ in drawing.axes for line in axes_.get_lines())


def file_of(bench, name: str):
    [path] = (bench.root / "results").rglob(name)
    return path


SPOIL = {
    "tampered": lambda bench, csv: file_of(bench, csv).write_bytes(
        file_of(bench, csv).read_bytes().replace(b"5", b"6")
    ),
    "no provenance": lambda bench, csv: file_of(bench, csv).with_name("provenance.json").unlink(),
    "garbage as provenance": lambda bench, csv: file_of(bench, csv).with_name("provenance.json").write_text("{"),
}


@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
@pytest.mark.parametrize(
    ("figure", "kind", "rows"), [("own-signals", "signals", SIGNALS), ("he2015-figure7", "responses", RESPONSES)]
)
def test_a_measurement_that_is_not_believed_is_named_and_not_drawn(
    bench, blank_figures, capsys, spoil, figure, kind, rows
):
    only(bench, figure)
    measured(bench, "cifar10-resnet56", rows, kind)
    folder = file_of(bench, f"{kind}.csv").parent
    spoil(bench, f"{kind}.csv")
    figures.write_figures("paper", bench.root)
    assert content(bench)[f"{figure}.csv"].count(b"\n") == 1, "the column names alone"
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("invalid record: ")]
    assert str(folder) in line


@pytest.mark.parametrize("provenance", [{"settings": {"digest": "0" * 12}}, {"settings": {}}, {"settings": None}])
def test_a_measurement_of_something_else_is_named_once(bench, blank_figures, capsys, provenance):
    """ResNet-110 stands in three panels: it is still one file, and a reader must find it."""
    only(bench, "own-signals")
    measured(bench, RESNET, SIGNALS, **provenance)
    figures.write_figures("paper", bench.root)
    assert content(bench)["own-signals.csv"].count(b"\n") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("invalid record: ")]
    assert lines and all(str(file_of(bench, SIGNALS_CSV).parent) in line for line in lines)
    assert len(lines) == 1


def test_a_measurement_of_an_older_recipe_is_not_drawn(bench):
    measured(bench, "cifar10-resnet56", SIGNALS)
    assert len(draw(bench, "own-signals")[1]) == 4
    bench.copy.edit("params/recipes/he2015-cifar.yaml", "momentum: 0.9", "momentum: 0.8")
    assert len(draw(bench, "own-signals")[1]) == 0
    bench.copy.edit("params/recipes/he2015-cifar.yaml", "momentum: 0.8", "momentum: 0.9")
    bench.copy.edit("params/scales/paper.yaml", "signal_iterations: ", "signal_iterations: 1")
    assert len(draw(bench, "own-signals")[1]) == 0, "of another number of iterations"


def test_units_signals_and_responses_are_the_same_bytes_twice(bench):
    only(bench, "he2016-figure2", "he2015-figure7", "own-signals")
    measured(bench, "cifar10-resnet56", SIGNALS)
    measured(bench, "cifar10-resnet56", RESPONSES, "responses")
    figures.write_figures("paper", bench.root)
    first = content(bench)
    assert len(first) == 9
    answer = bench.copy.command("figures", PYTHONHASHSEED="7", SOURCE_DATE_EPOCH="86400")
    assert answer.returncode == 0, answer.stdout
    assert content(bench) == first
    assert all(b"<dc:date>" not in picture and str(bench.root).encode() not in picture for picture in first.values())
