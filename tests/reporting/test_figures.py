"""The figures: which curves they show, on which axes, and that the same records give the same bytes."""

import csv
import io
import json

import pytest

from identity_mappings.records import run
from identity_mappings.reporting import figures
from identity_mappings.reporting.cells import Records
from identity_mappings.reporting.fingerprint import fingerprint

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
    return figures.draw(project, scale, Records(project, scale), project.figures[name])


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
    assert set(data["seed"]) == {seed}


def test_a_run_that_diverged_before_its_first_test_or_row(bench):
    only(bench, "he2016-figure6")
    bench.record(RESNET, None, curve=curve("100,0.1,2.5,88,,"))
    bench.record(BN, None, curve=curve())
    left, right = axes(draw(bench)[0])
    assert labels(right) == ["110, original: diverged", "110, BN after add: diverged"]
    assert [points(line) for line in left.get_lines()] == [[(100, 2.5)], []]
    figures.write("paper", bench.root)


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
    assert axes(drawing)[1].get_ylim() == (0, 100), "whatever the error, it is in sight"


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


def test_the_csv_holds_what_is_drawn(bench):
    only(bench, "he2016-figure6")
    bench.record(RESNET, 6.5, 0, curve=curve("10,0.1,2.5,60,,", "20,0.01,0.5,20,1.5,6.5"))
    figures.write("paper", bench.root)
    table = content(bench)["he2016-figure6.csv"]
    assert b"\r" not in table
    rows = list(csv.reader(io.StringIO(table.decode())))
    assert rows == [
        COLUMNS,
        ["BN after addition", "110, original", "0", "10", "0.1", "2.5", "60", "", ""],
        ["BN after addition", "110, original", "0", "20", "0.01", "0.5", "20", "1.5", "6.5"],
    ]


def some_records(bench) -> None:
    for seed, error in enumerate([6.5, 6.7, None]):
        bench.record(RESNET, error, seed)
    bench.record("cifar10-resnet1001", 7.6)
    bench.record("cifar10-resnet164", None)


def test_the_same_records_give_the_same_bytes(bench):
    """In this process twice, and in another with another order of hashes and another clock."""
    only(bench, "he2016-figure1", "he2016-figure6")
    some_records(bench)
    figures.write("paper", bench.root)
    first = content(bench)
    names = {f"he2016-figure{number}.{form}" for number in (1, 6) for form in ("svg", "png", "csv")}
    assert set(first) == {"figures.json", *names}
    figures.write("paper", bench.root)
    assert content(bench) == first
    answer = bench.copy.command("figures", PYTHONHASHSEED="7", SOURCE_DATE_EPOCH="86400")
    assert answer.returncode == 0, answer.stdout
    assert content(bench) == first
    for name, picture in first.items():
        assert b"<dc:date>" not in picture and b"Matplotlib" not in picture, name
        assert str(bench.root).encode() not in picture, name


def test_another_record_changes_the_figures_that_show_it(bench):
    only(bench, "he2016-figure1", "he2016-figure6")
    some_records(bench)
    figures.write("paper", bench.root)
    before = content(bench)
    folder = bench.folder("cifar10-resnet1001")
    bench.record("cifar10-resnet1001", 8.1, curve=(folder / run.CURVE).read_bytes())
    figures.write("paper", bench.root)
    changed = {name for name, picture in content(bench).items() if picture != before[name]}
    assert changed == {"figures.json", "he2016-figure1.svg", "he2016-figure1.png"}
    made = json.loads(content(bench)["figures.json"])
    assert (made["scale"], made["fingerprint"]) == ("paper", fingerprint(bench.project, "paper", "figures"))
