"""What a run keeps of its progress."""

import json
import math
from dataclasses import asdict

import pytest

from identity_mappings.evaluation.single_view import Result
from identity_mappings.training.record import COLUMNS, FIRST_LOSSES, Progress


def test_rows_average_the_iterations_since_the_row_before():
    progress = Progress()
    assert progress.add_iterations([1.0, 2.0], wrong=3, images=8)
    assert progress.add_iterations([3.0, 6.0], wrong=2, images=8)
    progress.end_row(0.1)
    assert progress.add_iterations([5.0], wrong=1, images=4)
    progress.note_test(Result(wrong=3, images=40, loss=0.25))
    progress.end_row(0.01)
    assert progress.rows == [["4", "0.1", "3", "31.25", "", ""], ["5", "0.01", "5", "25", "0.25", "7.5"]]
    assert (progress.training_loss, progress.training_error) == (5.0, 25.0)
    assert (progress.losses, progress.wrong, progress.images) == ([], 0, 0)


def test_a_row_has_the_test_of_its_own_iteration_only():
    progress = Progress()
    progress.add_iterations([1.0], 0, 1)
    progress.note_test(Result(1, 4, 0.5))
    progress.add_iterations([1.0], 0, 1)
    progress.end_row(0.1)
    assert progress.rows[0][4:] == ["", ""]


def test_no_row_without_iterations():
    progress = Progress()
    progress.end_row(0.1)
    assert progress.rows == []


def test_curve_is_csv_with_a_line_for_each_row():
    progress = Progress()
    progress.add_iterations([1 / 3], 1, 3)
    progress.end_row(0.001)
    header = b"iteration,learning_rate,training_loss,training_error,test_loss,test_error\n"
    assert progress.format_curve() == header + b"1,0.001,0.333333333,33.3333333,,\n"
    assert len(COLUMNS) == 6


def test_first_losses_are_exact_and_no_more_than_fifty():
    progress = Progress()
    losses = [1 / n for n in range(1, 101)]
    for begin, end in [(0, 20), (20, 48), (48, 60), (60, 100)]:
        progress.add_iterations(losses[begin:end], 0, 1)
    assert FIRST_LOSSES == 50
    assert progress.first_losses == losses[:50]
    assert progress.losses == losses
    assert progress.iteration == 100


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_divergence_is_found_at_its_iteration(bad, place):
    """Iterations count from 0; those before the first bad loss are done, those behind it are not counted."""
    progress = Progress()
    assert progress.add_iterations([1.0] * 10, 0, 10)
    losses = [2.0] * 5
    losses[place] = bad
    assert not progress.add_iterations([*losses, bad, 3.0], 0, 7)
    assert progress.diverged_at == progress.iteration == 10 + place
    assert progress.losses == progress.first_losses == [1.0] * 10 + [2.0] * place


def test_a_healthy_run_has_not_diverged():
    progress = Progress()
    assert progress.add_iterations([1e30, 0.0], 0, 2)
    assert progress.diverged_at is None


def test_last_and_best_test():
    """The best is the one with the fewest wrong predictions, the first of equals; the last is the last."""
    progress = Progress()
    for wrong in (30, 10, 20, 10):
        progress.add_iterations([1.0], 0, 1)
        progress.note_test(Result(wrong, 400, wrong / 100))
        assert progress.last == {
            "iteration": progress.iteration,
            "test_error": wrong / 4,
            "wrong": wrong,
            "images": 400,
            "test_loss": wrong / 100,
        }
    assert progress.best["iteration"] == 2
    assert progress.best["test_error"] == 2.5
    assert progress.last["iteration"] == 4


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_test_loss_that_is_not_finite_is_left_out(loss):
    """JSON and CSV have no word for it; the error stands."""
    progress = Progress()
    progress.add_iterations([1.0], 0, 1)
    progress.note_test(Result(9, 10, loss))
    progress.end_row(0.1)
    assert progress.last["test_loss"] is None
    assert progress.rows[0][4:] == ["", "90"]


def test_saved_and_restored_progress_goes_on_alike():
    progress = Progress()
    progress.add_iterations([0.1, 0.2, 0.3], 1, 6)
    progress.note_test(Result(2, 10, 0.5))
    progress.end_row(0.1)
    progress.add_iterations([1 / 3], 1, 2)
    progress.sessions.append({"started": "x", "seconds": 1.5})
    saved = asdict(progress)
    restored = Progress(**json.loads(json.dumps(saved)))
    assert restored == progress
    for one in (progress, restored):
        one.add_iterations([2 / 3, math.nan], 1, 4)
        one.note_test(Result(1, 10, 0.25))
        one.end_row(0.01)
    assert restored == progress
    assert restored.format_curve() == progress.format_curve()
    assert restored.diverged_at == 5


def test_saved_progress_is_a_copy():
    progress = Progress()
    progress.add_iterations([1.0], 0, 1)
    saved = asdict(progress)
    progress.add_iterations([2.0], 0, 1)
    progress.sessions.append({})
    assert saved["losses"] == saved["first_losses"] == [1.0]
    assert saved["sessions"] == []
