"""Checkpoints: exact, two of them, and a damaged one is set aside."""

import hashlib
import subprocess
import sys

import pytest
import torch

from identity_mappings.training import checkpoint

CPU = torch.device("cpu")


def state_of(number):
    g = torch.Generator().manual_seed(number)
    return {
        "network": {"weight": torch.randn(64, 33, generator=g), "odd": torch.tensor([float("nan"), -0.0, 1e-45])},
        "optimizer": {"state": {0: {"momentum_buffer": torch.randn(5, generator=g).double()}}, "param_groups": []},
        "progress": {"iteration": number, "losses": [0.1, 1 / 3], "last": None, "rows": [["1", "2"]]},
    }


def bits(tensor):
    return tensor.numpy().tobytes()


def assert_is_state(loaded, number):
    saved = state_of(number)
    assert loaded["progress"] == saved["progress"]
    for name, tensor in saved["network"].items():
        assert bits(loaded["network"][name]) == bits(tensor)
        assert loaded["network"][name].dtype == tensor.dtype
    buffers = [s["optimizer"]["state"][0]["momentum_buffer"] for s in (loaded, saved)]
    assert bits(buffers[0]) == bits(buffers[1])


def test_no_checkpoint(tmp_path):
    assert checkpoint.load_checkpoint(tmp_path, CPU) is None
    assert checkpoint.load_checkpoint(tmp_path / "no-such-folder", CPU) is None


def test_saved_and_loaded_bit_by_bit(tmp_path):
    path = checkpoint.write_checkpoint(tmp_path / "new", 7, state_of(7))
    assert [path] == list((tmp_path / "new").iterdir())
    assert_is_state(checkpoint.load_checkpoint(tmp_path / "new", CPU), 7)


def test_the_newest_is_loaded_and_two_are_kept(tmp_path):
    """By iteration, not by name or time: 9, 10 and 100 in the order of numbers."""
    paths = [checkpoint.write_checkpoint(tmp_path, number, state_of(number)) for number in (9, 10, 100)]
    assert sorted(tmp_path.iterdir()) == sorted(paths[1:])
    assert_is_state(checkpoint.load_checkpoint(tmp_path, CPU), 100)


def test_the_one_just_written_is_kept_even_if_others_say_they_are_newer(tmp_path):
    for number in (50, 60, 20):
        path = checkpoint.write_checkpoint(tmp_path, number, state_of(number))
    assert path.exists()
    assert len(list(tmp_path.iterdir())) == 2


def truncated(content):
    return content[: len(content) // 2]


def empty(_):
    return b""


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def flipped_at_the_end(content):
    return content[:-1] + bytes([content[-1] ^ 128])


@pytest.mark.parametrize("damage", [truncated, empty, flipped, flipped_at_the_end])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_read(tmp_path, capsys, damage):
    before = checkpoint.write_checkpoint(tmp_path, 1, state_of(1))
    last = checkpoint.write_checkpoint(tmp_path, 2, state_of(2))
    content = damage(last.read_bytes())
    last.write_bytes(content)
    assert_is_state(checkpoint.load_checkpoint(tmp_path, CPU), 1)
    aside = last.with_suffix(".damaged")
    assert sorted(tmp_path.iterdir()) == sorted([before, aside])
    assert aside.read_bytes() == content
    message = capsys.readouterr().err
    assert message == f"{last}: damaged, not read; set aside as {aside.name}\n"
    assert_is_state(checkpoint.load_checkpoint(tmp_path, CPU), 1)
    assert capsys.readouterr().err == ""


def test_all_damaged_is_no_checkpoint(tmp_path):
    for number in (1, 2):
        path = checkpoint.write_checkpoint(tmp_path, number, state_of(number))
        path.write_bytes(truncated(path.read_bytes()))
    assert checkpoint.load_checkpoint(tmp_path, CPU) is None
    assert len(list(tmp_path.glob("*.damaged"))) == 2


def test_whole_bytes_that_are_no_checkpoint_are_set_aside(tmp_path, capsys):
    """Its name has the right hash, but nothing can read it."""
    digest = hashlib.sha256(b"not a checkpoint").hexdigest()[:16]
    (tmp_path / f"checkpoint-00000001-{digest}.pt").write_bytes(b"not a checkpoint")
    assert checkpoint.load_checkpoint(tmp_path, CPU) is None
    assert "damaged" in capsys.readouterr().err


def test_other_files_are_left_alone(tmp_path):
    """Among them what a killed process left half written."""
    others = [tmp_path / "lock", tmp_path / ".checkpoint-00000009-0123456789abcdef.pt.xyz", tmp_path / "weights.pt"]
    for other in others:
        other.write_bytes(b"x")
    checkpoint.write_checkpoint(tmp_path, 1, state_of(1))
    assert_is_state(checkpoint.load_checkpoint(tmp_path, CPU), 1)
    checkpoint.remove_checkpoints(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_hash_of_weights_depends_on_names_values_types_and_shapes_not_on_order():
    a, b = torch.arange(6.0), torch.arange(6.0).view(2, 3)
    base = checkpoint.weights_sha256({"a": a, "b": b})
    assert checkpoint.weights_sha256({"b": b.clone(), "a": a.clone()}) == base
    assert checkpoint.weights_sha256({"a": a, "b": b.t().contiguous().t()}) == base  # another layout in memory
    others = [
        {"a": a, "c": b},
        {"a": b, "b": a},
        {"a": a},
        {"a": a, "b": b + torch.eye(2, 3) * 1e-6},
        {"a": a, "b": b.view(3, 2)},
        {"a": a, "b": b.double()},
        {"a": a, "b": b.view(torch.int32)},
        {"a": -a, "b": b},
    ]
    hashes = [checkpoint.weights_sha256(other) for other in others]
    assert len({base, *hashes}) == 1 + len(others)


def test_hash_of_weights_is_the_same_in_another_process():
    code = (
        "import torch; from identity_mappings.training.checkpoint import weights_sha256 as h;"
        "print(h({'x': torch.arange(4.0), 'n': torch.tensor(3)}))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == checkpoint.weights_sha256({"n": torch.tensor(3), "x": torch.arange(4.0)})
