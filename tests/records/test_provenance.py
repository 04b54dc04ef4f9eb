"""What a record says of its origin: all that a reviewer asks, nothing that names a person or a machine."""

import getpass
import hashlib
import json
import os
import platform
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from identity_mappings.cli import parser
from identity_mappings.parameters import load
from identity_mappings.records import provenance, run
from identity_mappings.records.files import canonical, sha256

ROOT = Path(__file__).parents[2]
EXPERIMENT = load(ROOT).resolve("cifar10-resnet110", "demo")
SESSIONS = [
    {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T01:00:00+00:00", "from_iteration": 0},
    {"started": "2026-01-02T00:00:00+00:00", "finished": "2026-01-02T02:00:00+00:00", "from_iteration": 70},
]


def gather(root: Path = ROOT, log: Path | None = None) -> dict[str, Any]:
    return provenance.describe_run(
        EXPERIMENT,
        3,
        root=root,
        sessions=SESSIONS,
        hardware={"cpu": "a processor", "gpu": None},
        settings={"deterministic_algorithms": True, "batch": 64, "env": {"cuda": None, "cudnn": None}},
        data={"training_images": 1297, "test_images": 500},
        weights_sha256="ab" * 32,
        log=log,
    )


def texts(value: Any) -> Iterator[str]:
    """Every text in nested mappings and lists, keys too."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from texts(key)
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def test_it_has_every_field_of_the_list():
    assert set(gather()) == {
        "schema_version", "rule", "wildcards", "command", "started", "finished", "sessions", "log", "git", "source",
        "params", "data", "env", "hardware", "seed", "weights_sha256", "parents",
    }  # fmt: skip


def test_who_was_called_and_when():
    found = gather()
    assert (found["schema_version"], found["rule"]) == (1, "train")
    assert found["wildcards"] == {"experiment": "cifar10-resnet110", "digest": EXPERIMENT.digest, "seed": 3}
    assert found["command"] == "identity-mappings train cifar10-resnet110 --scale demo --seed 3"
    assert (found["started"], found["finished"]) == (SESSIONS[0]["started"], SESSIONS[1]["finished"])
    assert found["sessions"] == SESSIONS


def test_the_command_is_one_that_the_command_line_takes():
    parsed = parser.parse_args(gather()["command"].split()[1:])
    assert (parsed.experiments, parsed.scale, parsed.seed) == (["cifar10-resnet110"], "demo", [3])


def test_parameters_and_data():
    found = gather()
    assert found["params"]["resolved"] == EXPERIMENT.parameters
    assert found["params"]["sha256"] == sha256(canonical(EXPERIMENT.parameters))
    assert found["data"] == {
        "name": "digits",
        "dvc_md5": EXPERIMENT.parameters["dataset"]["md5"],
        "training_images": 1297,
        "test_images": 500,
    }


def test_environment_hardware_and_determinism(monkeypatch):
    monkeypatch.setenv("IDENTITY_MAPPINGS_LEASE", "GPU-1234")
    found = gather()
    assert found["env"] == {
        "python": ".".join(map(str, sys.version_info[:3])),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in ("torch", "torchvision", "numpy", "scikit-learn")},
        "lock_sha256": hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest(),
        "cuda": None,
        "cudnn": None,
    }
    assert found["hardware"] == {"cpu": "a processor", "gpu": None, "gpus_requested": 1, "leased": "GPU-1234"}
    assert found["seed"] == {"seed": 3, "deterministic_algorithms": True, "batch": 64}
    assert found["weights_sha256"] == "ab" * 32
    assert found["parents"] == {}, "a training has none"


def test_the_log_is_named_and_hashed(tmp_path):
    log = tmp_path / "seed3.log"
    assert gather(log=None)["log"] is None
    assert gather(log=log)["log"] is None, "not there"
    log.write_text("progress\n")
    assert gather(log=log)["log"]["sha256"] == hashlib.sha256(b"progress\n").hexdigest()
    assert gather(log=log)["log"]["path"].endswith("seed3.log")


def test_the_modules_that_were_imported_are_hashed():
    sources = gather()["source"]
    assert {"src/identity_mappings/records/provenance.py", "src/identity_mappings/parameters/load.py"} <= set(sources)
    imported = {name.replace(".", "/") for name in sys.modules if name.startswith("identity_mappings.")}
    for path, digest in sources.items():
        assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() == digest
        module = path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__")
        assert module == "identity_mappings" or module in imported
    assert list(sources) == sorted(sources)


def test_it_names_no_person_no_machine_and_no_folder(tmp_path, monkeypatch):
    for name in ("USER", "LOGNAME", "HOSTNAME", "HOME"):
        monkeypatch.setenv(name, "/home/nemo-of-utopia")
    monkeypatch.setattr(platform, "node", lambda: "nemo-of-utopia")
    monkeypatch.setattr(socket, "gethostname", lambda: "nemo-of-utopia")
    monkeypatch.setattr(getpass, "getuser", lambda: "nemo-of-utopia")
    real = os.uname()
    altered = os.uname_result((real.sysname, "nemo-of-utopia", *real[2:]))
    monkeypatch.setattr(os, "uname", lambda: altered)
    log = tmp_path / "seed3.log"
    log.touch()
    found = gather(log=log)
    for text in texts(found):
        assert "nemo-of-utopia" not in text
        assert not text.startswith(("/", "~")) and str(ROOT) not in text and str(tmp_path) not in text
        assert "@" not in text


def test_a_written_record_adds_the_hashes_of_its_outputs(tmp_path):
    metrics = {"status": "finished", "test_error": 6.5}
    run.write_record(tmp_path, metrics, b"curve", gather())
    written = json.loads((tmp_path / "provenance.json").read_text())
    assert written["outputs"] == {
        "metrics.json": hashlib.sha256((tmp_path / "metrics.json").read_bytes()).hexdigest(),
        "curve.csv": hashlib.sha256(b"curve").hexdigest(),
    }
    assert {key: value for key, value in written.items() if key != "outputs"} == gather()
