"""The record of a measurement: its data and their provenance come back as written, or it is said why not."""

import os

import pytest

from identity_mappings.records import files, measurement
from identity_mappings.records.run import BadRecord

NAME, CONTENT = "signals.csv", b"iteration,unit\n0,0\n"
ORIGIN = {"schema_version": 1, "rule": "signals", "parents": {}, "settings": {"umlaut": "ä", "null": None}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results" / "signals" / "digits-0123456789ab-10"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [CONTENT, b"", b"\x00\xff\r\n"])
def test_a_record_comes_back_as_it_was_written(folder, content):
    measurement.write_measurement(folder, NAME, content, ORIGIN)
    found, provenance = measurement.read_measurement(folder, NAME)
    assert found == content == (folder / NAME).read_bytes()
    assert provenance == {**ORIGIN, "outputs": {NAME: files.sha256(content)}}
    assert names(folder) == ["provenance.json", NAME]


def test_nothing_there_is_no_record(folder):
    assert measurement.read_measurement(folder, NAME) is None
    folder.mkdir(parents=True)
    assert measurement.read_measurement(folder, NAME) is None
    measurement.write_measurement(folder, NAME, CONTENT, ORIGIN)
    assert measurement.read_measurement(folder, "responses.csv") is None
    (folder / NAME).unlink()
    assert measurement.read_measurement(folder, NAME) is None


def test_it_is_written_in_whole_files_and_the_data_last(folder, monkeypatch):
    """What Snakemake waits for is the data: where they are, their provenance is."""
    order = []

    def write(path, content):
        order.append(path.relative_to(folder).as_posix())
        files.write_atomically(path, content)

    monkeypatch.setattr(measurement, "write_atomically", write)
    measurement.write_measurement(folder, NAME, CONTENT, ORIGIN)
    assert order == ["provenance.json", NAME]


@pytest.fixture
def crash(monkeypatch):
    """Make the second file of a record fail, as a full disk would."""

    def fail_at(name):
        def write(path, content):
            if path.name == name:
                raise OSError(28, os.strerror(28))
            files.write_atomically(path, content)

        monkeypatch.setattr(measurement, "write_atomically", write)

    return fail_at


def test_a_crash_between_the_files_leaves_no_record(folder, crash):
    crash(NAME)
    with pytest.raises(OSError):
        measurement.write_measurement(folder, NAME, CONTENT, ORIGIN)
    assert names(folder) == ["provenance.json"]
    assert measurement.read_measurement(folder, NAME) is None


def test_a_crash_over_an_older_record_does_not_pass_for_the_new_one(folder, crash):
    measurement.write_measurement(folder, NAME, CONTENT, ORIGIN)
    crash(NAME)
    with pytest.raises(OSError):
        measurement.write_measurement(folder, NAME, CONTENT + b"1,0\n", ORIGIN)
    with pytest.raises(BadRecord, match="another hash"):
        measurement.read_measurement(folder, NAME)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT.replace(b"\n", b"\r\n")])
def test_changed_data_are_not_believed(folder, content):
    measurement.write_measurement(folder, NAME, CONTENT, ORIGIN)
    (folder / NAME).write_bytes(content)
    with pytest.raises(BadRecord) as caught:
        measurement.read_measurement(folder, NAME)
    message = str(caught.value)
    assert message.startswith(f"{folder / NAME}: was changed after it was made")
    assert "remove the folder to have it made again" in message and "\n" not in message


def test_a_changed_hash_is_not_believed(folder):
    measurement.write_measurement(folder, NAME, CONTENT, ORIGIN)
    path = folder / "provenance.json"
    path.write_text(path.read_text().replace(files.sha256(CONTENT), files.sha256(b"")))
    with pytest.raises(BadRecord, match="was changed after it was made"):
        measurement.read_measurement(folder, NAME)


def test_data_without_provenance_are_not_believed(folder):
    measurement.write_measurement(folder, NAME, CONTENT, ORIGIN)
    (folder / "provenance.json").unlink()
    with pytest.raises(BadRecord, match=r"provenance.json is missing: .*remove the folder") as caught:
        measurement.read_measurement(folder, NAME)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"outputs": null}', b'{"outputs": {}}'])
def test_garbage_is_no_provenance(folder, garbage):
    measurement.write_measurement(folder, NAME, CONTENT, ORIGIN)
    (folder / "provenance.json").write_bytes(garbage)
    with pytest.raises(BadRecord, match="not a provenance") as caught:
        measurement.read_measurement(folder, NAME)
    assert str(folder / "provenance.json") in str(caught.value)


def test_a_folder_in_the_place_of_the_data_is_said(folder):
    (folder / NAME).mkdir(parents=True)
    with pytest.raises(BadRecord, match=rf"{NAME}: Is a directory"):
        measurement.read_measurement(folder, NAME)
    with pytest.raises(BadRecord, match="Not a directory"):
        (folder / "file").write_bytes(b"")
        measurement.read_measurement(folder / "file", NAME)


def test_a_provenance_that_is_no_json_is_not_written(folder):
    """A loss that is no number must be given as text; then nothing is half written."""
    with pytest.raises(ValueError):
        measurement.write_measurement(folder, NAME, CONTENT, {"loss": float("nan")})
    assert not folder.exists()
