"""What a run keeps of its iterations and tests."""

import math
from types import SimpleNamespace

import pytest
import torch

from identity_mappings.evaluation.single_view import Result
from identity_mappings.training.group import Group
from identity_mappings.training.trained_run import FIRST_LOSSES, PROGRESS, Run
from identity_mappings.training.trainer import Options


@pytest.fixture
def make_run(short, tmp_path):
    """Of runs whose trainer does nothing."""

    def make_trainer(*_, **__) -> SimpleNamespace:
        recipe = SimpleNamespace(iterations=12, log_every=3)
        state = {"state": dict, "restore": lambda saved: None, "close": lambda: None}
        return SimpleNamespace(recipe=recipe, run_key={"seed": 0}, device_name="cpu", **state)

    options = Options(tmp_path, root=tmp_path, make_trainer=make_trainer)
    return lambda: Run(short(), 0, torch.device("cpu"), options, Group())


@pytest.fixture
def run(make_run) -> Run:
    return make_run()


def test_rows_average_the_iterations_since_the_row_before(run):
    assert run.add_iterations([1.0, 2.0], wrong=3, images=8)
    assert run.add_iterations([3.0, 6.0], wrong=2, images=8)
    run.end_row(0.1)
    assert run.add_iterations([5.0], wrong=1, images=4)
    run.note_test(Result(wrong=3, images=40, loss=0.25))
    run.end_row(0.01)
    assert run.rows == [["4", "0.1", "3", "31.25", "", ""], ["5", "0.01", "5", "25", "0.25", "7.5"]]
    assert (run.training_loss, run.training_error) == (5.0, 25.0)
    assert (run.losses, run.wrong, run.images) == ([], 0, 0)


def test_a_row_has_the_test_of_its_own_iteration_only_and_none_is_without_iterations(run):
    run.end_row(0.1)
    assert run.rows == []
    run.add_iterations([1.0], 0, 1)
    run.note_test(Result(1, 4, 0.5))
    run.add_iterations([1.0], 0, 1)
    run.end_row(0.1)
    assert run.rows[0][4:] == ["", ""]


def test_curve_is_csv_with_a_line_for_each_row(run):
    run.add_iterations([1 / 3], 1, 3)
    run.end_row(0.001)
    header = b"iteration,learning_rate,training_loss,training_error,test_loss,test_error\n"
    assert run.format_curve() == header + b"1,0.001,0.333333333,33.3333333,,\n"


def test_first_losses_are_exact_and_no_more_than_fifty(run):
    losses = [1 / n for n in range(1, 101)]
    for begin, end in [(0, 20), (20, 48), (48, 60), (60, 100)]:
        assert run.add_iterations(losses[begin:end], 0, 1)
    assert FIRST_LOSSES == 50
    assert run.first_losses == losses[:50]
    assert run.losses == losses
    assert run.iteration == 100 and run.diverged_at is None


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_divergence_is_found_at_its_iteration(run, bad, place):
    """Iterations count from 0; those before the first bad loss are done, those behind it are not counted."""
    assert run.add_iterations([1.0] * 10, 0, 10)
    losses = [2.0] * 5
    losses[place] = bad
    assert not run.add_iterations([*losses, bad, 3.0], 0, 7)
    assert run.diverged_at == run.iteration == 10 + place and run.status == "diverged"
    assert run.losses == run.first_losses == [1.0] * 10 + [2.0] * place


def test_last_and_best_test(run):
    """The best is the one with the fewest wrong predictions, the first of equals; the last is the last."""
    for wrong in (30, 10, 20, 10):
        run.add_iterations([1.0], 0, 1)
        run.note_test(Result(wrong, 400, wrong / 100))
        test = {"test_error": wrong / 4, "wrong": wrong, "images": 400, "test_loss": wrong / 100}
        assert run.last == {"iteration": run.iteration, **test}
    assert (run.best["iteration"], run.best["test_error"], run.last["iteration"]) == (2, 2.5, 4)


def test_a_test_loss_that_is_not_finite_is_left_out(run):
    """JSON and CSV have no word for it; the error stands."""
    run.add_iterations([1.0], 0, 1)
    run.note_test(Result(9, 10, math.nan))
    run.end_row(0.1)
    assert run.last["test_loss"] is None
    assert run.rows[0][4:] == ["", "90"]


def test_a_run_resumes_as_it_was_saved(make_run):
    one = make_run()
    one.add_iterations([0.1, 0.2, 0.3], 1, 6)
    one.note_test(Result(2, 10, 0.5))
    one.end_row(0.1)
    one.add_iterations([1 / 3], 1, 2)
    one.sessions.append({"started": "x", "seconds": 1.5})
    one.write_checkpoint()
    other = make_run()
    for run in (one, other):
        run.add_iterations([2 / 3, math.nan], 1, 4)
        run.note_test(Result(1, 10, 0.25))
        run.end_row(0.01)
    assert {name: vars(one)[name] for name in PROGRESS} == {name: vars(other)[name] for name in PROGRESS}
    assert one.format_curve() == other.format_curve() and other.diverged_at == 5
