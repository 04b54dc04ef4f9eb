"""`identity-mappings status`: what each run does, the cells, the time, and how long the rest takes."""

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from identity_mappings import cli
from identity_mappings.parameters.reports import SINGLE_VIEW
from identity_mappings.records import heartbeat, run
from identity_mappings.records.files import json_bytes
from identity_mappings.reporting import status as status_module
from identity_mappings.training.driver import Device, Driver

RESNET20, PLAIN20, RESNET110 = "cifar10-resnet20", "cifar10-plain20", "cifar10-resnet110"
H200 = {"cpu": "a cpu", "gpu": {"model": "NVIDIA H200"}}
BEAT = heartbeat.Heartbeat(
    state="running",
    iteration=16000,
    of_iterations=64000,
    from_iteration=0,
    seconds=1600.0,
    device_seconds=1600.0,
    training_loss=0.25,
    test_error=12.5,
    gpu=None,
    cpu="AMD EPYC",
    arithmetic="float32",
    batch_size=128,
    runs_at_once=1,
    world_size=1,
    silence=120.0,
    process=heartbeat.identify_process(),
)
GONE = {**BEAT.process, "started": -7}  # a process id that another process has now
ELSEWHERE = {**BEAT.process, "machine": "another"}


@pytest.fixture
def status(bench, capsys, monkeypatch):
    """Calls the command; returns its exit status and what it printed."""
    monkeypatch.chdir(bench.root)

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.main(["status", *words])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


@pytest.fixture
def runs(status):
    """{(experiment, seed): entry} of --json."""

    def call(*words: str) -> dict[tuple[str, int], dict]:
        code, printed = status("--json", *words)
        assert code == 0
        return {(entry["experiment"], entry["seed"]): entry for entry in json.loads(printed)["list"]}

    return call


def beat_at(bench, name: str, beat: heartbeat.Heartbeat, seed: int = 0, age: float = 0, arithmetic="float32") -> Path:
    folder = bench.folder(name, seed, arithmetic=arithmetic)
    checkpoints = folder.parents[2] / "checkpoints" / folder.parent.name / folder.name
    checkpoints.mkdir(parents=True, exist_ok=True)
    heartbeat.write_heartbeat(checkpoints, beat)
    moment = time.time() - age
    os.utime(checkpoints / heartbeat.NAME, (moment, moment))
    return checkpoints


def log_of(bench, name: str, text: str, file: str = "seed0.log") -> Path:
    path = bench.root / "logs/results" / bench.folder(name).parent.name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def timed(seconds: float, hardware: dict = H200) -> dict:
    return {"hardware": hardware, "sessions": [{"seconds": seconds, "device_seconds": seconds}]}


BY_HAND = ("imagenet", "voc", "coco")  # what the names of runs begin with whose data only a person gets


def test_every_wanted_run_is_there_once_and_waits(bench, runs, status):
    project = bench.project
    expected = {(e.name, seed) for e in project.list_to_train("paper") for seed in project.seeds(e)}
    found = runs()
    assert set(found) == expected
    states = {name: entry["state"] for name, entry in found.items()}
    assert all(state == ("no data" if name.startswith(BY_HAND) else "waiting") for (name, _), state in states.items())
    told = json.loads(status("--json")[1])
    assert told["format"] == 2 and told["scale"] == "paper" and told["seconds_left_here"] is None
    assert told["runs"]["wanted"] == len(expected) == told["runs"]["waiting"] + told["runs"]["no_data"]
    assert told["cells"]["filled"] == 0 < told["cells"]["of"]


def test_data_that_a_person_got_is_no_longer_missing(bench, runs):
    for name in ("shards/imagenet", "voc-0712", "coco-2014"):
        (bench.root / "data" / name).mkdir(parents=True)
    assert {entry["state"] for entry in runs().values()} == {"waiting"}


def test_records_decide_what_is_done_and_fill_cells(bench, runs, status):
    bench.record(RESNET20, 8.7, provenance=timed(3600))
    bench.record(PLAIN20, None)
    beat_at(bench, RESNET20, BEAT)  # left behind: the record is there
    found = runs()
    done = found[RESNET20, 0]
    assert (done["state"], done["iteration"], done["test_error"], done["checkpoint"]) == ("finished", 64000, 8.7, None)
    assert done["seconds_spent"] == 3600 and done["device"] == "GPU NVIDIA H200"
    assert found[PLAIN20, 0]["state"] == "diverged"
    told = json.loads(status("--json")[1])
    names = [cell.experiments for cell in bench.project.cells() if not cell.is_cost and cell.tested_by == SINGLE_VIEW]
    assert told["cells"]["filled"] == sum(bool({RESNET20, PLAIN20} & {*each}) for each in names) > 0
    assert told["device_seconds"]["spent"] == 3600


def test_a_running_run_says_how_far_how_fast_and_how_long(bench, runs, status):
    beat_at(bench, RESNET20, BEAT)
    found = runs()[RESNET20, 0]
    assert found["state"] == "running" and (found["iteration"], found["of_iterations"]) == (16000, 64000)
    assert found["images_per_second"] == pytest.approx(128 * 16000 / 1600)
    assert found["seconds_left"] == pytest.approx(48000 * 0.1)
    assert (found["training_loss"], found["test_error"], found["device"]) == (0.25, 12.5, "CPU AMD EPYC")
    code, text = status()
    assert code == 0
    line = next(line for line in text.splitlines() if line.split()[:2] == [RESNET20, "0"])
    for part in ("16,000 of 64,000", "0.250", "12.50 %", "1,280", "80 min", "AMD EPYC"):
        assert part in line, line
    assert "1 running" in text and "27 min spent" in text


@pytest.mark.parametrize(
    ("changes", "age", "state"),
    [
        ({}, 0, "running"),
        ({}, 1e5, "running"),  # the process is there: a slow network says nothing for long
        ({"process": GONE}, 0, "interrupted"),
        ({"process": {**BEAT.process, "pid": 2**22 + 1}}, 0, "interrupted"),
        ({"process": ELSEWHERE}, 60, "running"),  # on another node of a cluster
        ({"process": ELSEWHERE}, 130, "interrupted"),
        ({"process": ELSEWHERE, "silence": 500.0}, 130, "running"),
        ({"process": ELSEWHERE}, -600, "running"),  # a clock that goes before ours
        ({"state": "stopped"}, 0, "interrupted"),
        ({"state": "failed", "message": "the disk is full"}, 0, "failed"),
        ({"process": {}}, 130, "interrupted"),
    ],
)
def test_what_a_heartbeat_means(bench, runs, changes, age, state):
    checkpoints = beat_at(bench, RESNET20, replace(BEAT, **changes), age=age)
    (checkpoints / "checkpoint-00015000-0123456789abcdef.pt").touch()
    found = runs()[RESNET20, 0]
    assert (found["state"], found["iteration"], found["checkpoint"]) == (state, 16000, 15000)
    assert (found["images_per_second"] is None) == (state != "running")
    assert found["message"] == changes.get("message")


def test_a_heartbeat_that_makes_no_sense_is_none(bench, runs):
    contents = [
        b"",
        b"{",
        b"[1]",
        b"null",
        json_bytes({**asdict(BEAT), "iteration": "much"}),
        json_bytes({**asdict(BEAT), "seconds": None}),
        json_bytes({**asdict(BEAT), "process": 7}),
        b"\xff\xfe",
    ]
    checkpoints = beat_at(bench, RESNET20, BEAT)
    for content in contents:
        (checkpoints / heartbeat.NAME).write_bytes(content)
        assert runs()[RESNET20, 0]["state"] == "waiting", content


def test_seeds_of_one_process_in_another_arithmetic(bench, runs, status):
    for seed in (0, 1):
        beat = replace(BEAT, arithmetic="tf32", gpu="NVIDIA H200", runs_at_once=2, device_seconds=800.0)
        beat_at(bench, RESNET110, beat, seed, arithmetic="tf32")
    found = runs()
    assert {found[RESNET110, seed]["state"] for seed in (0, 1)} == {"running"}
    assert found[RESNET110, 1]["device"] == "GPU NVIDIA H200"
    assert found[RESNET110, 1]["digest"] == bench.folder(RESNET110, arithmetic="tf32").parent.name[-12:]
    assert "2 runs at once" in status()[1]


def test_an_interrupted_run_says_where_it_goes_on(bench, status, runs):
    bench.record(RESNET20, 30.0, status="unfinished")
    checkpoints = beat_at(bench, PLAIN20, replace(BEAT, process=GONE))
    (checkpoints / "checkpoint-00015000-0123456789abcdef.pt").touch()
    text = status()[1]
    assert "2 interrupted" in text
    line = next(line for line in text.splitlines() if line.split()[:2] == [PLAIN20, "0"])
    assert "16,000 of 64,000" in line and "15,000" in line
    assert runs()[RESNET20, 0]["iteration"] == 32000


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("identity-mappings: no data here: fetch it\n", True),
        ("Traceback (most recent call last):\n  File ...\nRuntimeError: CUDA error: out of memory\n\n", True),
        ("slurmstepd: error: *** JOB 7 ON node CANCELLED DUE TO TIME LIMIT ***\n", True),
        ("/bin/bash: line 1: 77 Killed identity-mappings train\n", True),
        ("cifar10-resnet20, seed 0: unfinished after 5 iterations; rerun to resume\n", False),
        ("waiting for 1 GPU(s); held by 77\n", False),
        ("", False),
    ],
)
def test_a_failed_run_shows_its_log_and_the_last_line(bench, runs, status, text, failed):
    path = log_of(bench, RESNET20, text)
    found = runs()[RESNET20, 0]
    assert found["state"] == ("failed" if failed else "waiting")
    if failed:
        assert found["log"] == path.relative_to(bench.root).as_posix()
        assert found["message"] == text.strip().splitlines()[-1]
        assert found["message"][:40] in " ".join(status()[1].split())


def test_a_log_that_is_older_than_the_training_is_past(bench, runs):
    path = log_of(bench, RESNET20, "identity-mappings: no data here\n")
    os.utime(path, (1, 1))
    beat_at(bench, RESNET20, replace(BEAT, process=GONE), age=60)
    assert runs()[RESNET20, 0]["state"] == "interrupted"
    os.utime(path)
    assert runs()[RESNET20, 0]["state"] == "failed"


def test_the_log_of_a_job_with_several_seeds_is_of_those_that_it_trains(bench, runs):
    log_of(bench, RESNET20, "identity-mappings: no GPU\n", "train_cifar10_resnet20_seeds_1_3.log")
    log_of(bench, RESNET20, "identity-mappings: no weights\n", "seed0-single-view.log")
    found = runs()
    assert [found[RESNET20, seed]["state"] for seed in range(4)] == ["waiting", "failed", "waiting", "failed"]


def test_a_log_moves_no_cursor_and_is_cut(bench, runs, status):
    log_of(bench, RESNET20, f"identity-mappings: \x1b[2J\x1b[31m[bold]{'x' * 5000}\n")
    found = runs()[RESNET20, 0]["message"]
    assert found.startswith("identity-mappings: [bold]xxx") and len(found) == 300
    assert "\x1b" not in status()[1] and "[bold]" in status()[1]


def test_watch_in_a_pipe_shows_once_and_says_so(status):
    code, text = status("--watch")
    assert code == 0 and "shown once: standard output is not a terminal" in text and "runs done" in text


def test_watch_on_a_terminal_is_refreshed_until_it_is_interrupted(bench):
    beat_at(bench, RESNET20, BEAT)
    reader, writer = pty.openpty()
    words = [sys.executable, "-m", "identity_mappings", "status", "--watch"]
    environment = {**bench.copy.environment, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"}

    def heed_interrupts() -> None:
        """A suite that was started in the background hands "ignore" on."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        words, cwd=bench.root, env=environment, stdin=writer, stdout=writer, stderr=writer, preexec_fn=heed_interrupts
    ) as watching:
        os.close(writer)
        seen, limit = b"", time.monotonic() + 60
        while b"16,000 of 64,000" not in seen and time.monotonic() < limit:
            seen += os.read(reader, 65536)
        watching.send_signal(signal.SIGINT)
        try:
            while time.monotonic() < limit + 30 and (chunk := os.read(reader, 65536)):
                seen += chunk
        except OSError:
            pass  # its end is closed
        assert watching.wait(30) == 130
    os.close(reader)
    assert b"16,000 of 64,000" in seen and b"Traceback" not in seen


def test_how_long_the_rest_takes_on_a_device_and_here(bench, status, monkeypatch):
    """Of an hour each: three runs of one thread on four cores; a pilot with another seed and a heartbeat tell, too."""
    monkeypatch.setattr(status_module, "count_cores", lambda: 4)
    bench.copy.edit("params/scales/tiny.yaml", "runs: 1", "runs: 6")
    cpu = {"cpu": "Other", "gpu": None}
    for name in ("cifar10-resnet110", "cifar10-resnet110-dropout", "cifar10-resnet110-exclusive-gate-b6"):
        for seed in range(5):
            bench.record(name, 9.0, seed, scale="tiny", provenance=timed(3600, cpu))
    told = json.loads(status("--scale", "tiny", "--json")[1])
    assert told["device_seconds"] == {
        "spent": 15 * 3600.0, "left": 3 * 3600.0, "runs_of_unknown_time": 0, "runs_scaled_by_multiply_adds": 0,
        "devices": ["CPU Other"],
    }  # fmt: skip
    assert told["seconds_left_here"] == 3600, "one run is the longest"
    text = status("--scale", "tiny")[1]
    assert "to go: about 3.0 h on CPU Other\n" in text and "here: about 60 min, 4 runs at once\n" in text
    monkeypatch.setattr(status_module, "count_cores", lambda: 2)
    assert json.loads(status("--scale", "tiny", "--json")[1])["seconds_left_here"] == 1.5 * 3600
    monkeypatch.setattr(status_module, "find_cpu_model", lambda: "Here")
    bench.record("cifar10-resnet110", 9.0, 9, scale="tiny", provenance=timed(60, {"cpu": "Here", "gpu": None}))
    told = json.loads(status("--scale", "tiny", "--json")[1])["device_seconds"]
    assert (told["left"], told["devices"]) == (2 * 3600 + 60, ["CPU Here", "CPU Other"]), "this CPU comes first"


def test_a_scale_without_a_run_takes_its_time_from_other_scales(bench, status):
    bench.record(RESNET110, 9.0, scale="tiny", provenance=timed(8, {"cpu": "Other", "gpu": None}))
    other = bench.root / "params/scales/other.yaml"
    text = (bench.root / "params/scales/tiny.yaml").read_text().replace("results/tiny", "results/other")
    other.write_text(
        text.replace("iterations: 8\n", "iterations: 800\n").replace("published", "caption: ours\npublished")
    )
    lines = status("--scale", "other")[1].splitlines()
    assert "other: ours" in lines and "other: 0 of 3 runs done; 3 waiting" in lines
    assert "to go: at least 13 min on CPU Other, without 2 runs of unknown time" in lines


def test_on_gpus_the_machines_own_are_counted(bench, status, monkeypatch):
    bench.record(RESNET20, 8.7, provenance=timed(3600))
    monkeypatch.setattr(
        status_module, "query_driver", lambda: Driver("1", [Device(i, f"GPU-{i}", "") for i in range(2)])
    )
    assert json.loads(status("--json")[1])["seconds_left_here"] == 2 * 3600
    monkeypatch.setattr(status_module, "query_driver", Driver)
    assert json.loads(status("--json")[1])["seconds_left_here"] is None and "here: " not in status()[1]


def test_the_old_options_are_gone(status, capsys):
    for words in (["status", "--what-if"], ["next"]):
        with pytest.raises(SystemExit):
            cli.main(words)


def test_a_scale_that_is_not_there(status):
    code, text = status("--scale", "papers")
    assert code == 2 and "paper" in text and text.count("\n") == 1


def test_records_of_other_parameters_are_counted_with_the_cause_and_the_cure(bench, status, capsys):
    for seed in (0, 1):
        bench.record(RESNET110, 6.6, seed, arithmetic="tf32")
    assert json.loads(status("--json")[1])["outdated"] is None
    bench.copy.edit("params/recipes/he2016-cifar.yaml", "momentum: 0.9", "momentum: 0.8")
    bench.record(RESNET110, 6.6)
    told = json.loads(status("--json")[1])["outdated"]
    assert told.startswith("2 of 3 records of scale paper are of other parameters than params/ has now ")
    assert "(params/recipes/he2016-cifar.yaml: momentum was 0.9, is 0.8)" in told and "Undo the change" in told
    assert told in " ".join(status()[1].split())
    bench.tables()
    assert told in capsys.readouterr().err


def test_one_bad_record_hides_no_other(bench, status, runs):
    bench.record(RESNET20, 8.7)
    (bench.record(PLAIN20, 9.0) / run.CURVE).write_text("other")
    assert runs()[RESNET20, 0]["state"] == "finished"
    assert "invalid record" in status()[1]


def test_a_thousand_runs_are_read_within_two_seconds(bench):
    """Of the processor, with the start of Python: how busy the machine is otherwise is not the command's doing."""
    scale = bench.root / "params/scales/paper.yaml"
    scale.write_text(scale.read_text().replace("runs: 5 #", "runs: 23 #", 1))
    wanted = [run for run in bench.project.list_runs_to_train("paper") if not run[0].name.startswith(BY_HAND)]
    for experiment, seed in wanted:
        fill_folder(bench, experiment, seed)
    seconds = []
    for options in ((), (), ("-X", "importtime")):
        words = [sys.executable, *options, "-m", "identity_mappings", "status", "--json"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer = subprocess.run(words, cwd=bench.root, env=bench.copy.environment, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    told = json.loads(answer.stdout)
    assert told["runs"]["finished"] + told["runs"]["running"] == len(wanted) > 1000, told["runs"]
    modules = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert not modules & {"torch", "pandas", "matplotlib", "snakemake"}
    assert min(seconds) < 2, seconds


def fill_folder(bench, experiment, seed: int) -> None:
    """A record, or for every tenth run a heartbeat; without asking the project again for each."""
    results = bench.root / "results"
    if seed % 10 == 9:
        folder = run.get_checkpoint_folder(results, experiment, seed)
        folder.mkdir(parents=True)
        heartbeat.write_heartbeat(folder, BEAT)
        return
    length = experiment.parameters["recipe"]["iterations"]
    metrics = {
        "format": run.FORMAT,
        "experiment": experiment.name,
        "digest": experiment.digest,
        "scale": "paper",
        "seed": seed,
        "status": "finished",
        "iterations": length,
        "of_iterations": length,
        "test_error": 7.0,
        "training_error": 1.0,
        "training_loss": 0.1,
        "test": {"iteration": length, "test_error": 7.0},
        "best": {"iteration": length, "test_error": 7.0},
        "arithmetic": "float32",
        "first_losses": [1 / (n + 1) for n in range(50)],
    }
    rows = "".join(f"{n},0.1,{1 / n:.9g},{50 / n:.9g},0.5,7\n" for n in range(100, length + 1, 100))
    origin = {"params": {"resolved": experiment.parameters}, "seed": {"seed": seed}, **timed(3600)}
    origin["sources"] = {f"src/file{n}.py": "0" * 64 for n in range(60)}
    files = run.get_folder(results, experiment, seed)
    files.mkdir(parents=True)
    content, curve = json_bytes(metrics), rows.encode()
    outputs = {run.METRICS: run.sha256(content), run.CURVE: run.sha256(curve)}
    (files / run.METRICS).write_bytes(content)
    (files / run.CURVE).write_bytes(curve)
    (files / run.PROVENANCE).write_bytes(json_bytes({**origin, "outputs": outputs}))
