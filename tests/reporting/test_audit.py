"""`audit`: a run that was really made in a commit, and everything that can be wrong between it and the tables."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from identity_mappings.parameters import load
from identity_mappings.records import run
from identity_mappings.records.files import json_bytes, sha256
from identity_mappings.reporting import cost as counting
from identity_mappings.reporting import evidence, figures, page, tables
from identity_mappings.reporting.audit import audit
from identity_mappings.training.evaluate import evaluate
from identity_mappings.training.loop import train
from identity_mappings.training.responses import measure_responses
from identity_mappings.training.signals import measure_signals
from identity_mappings.training.trainer import Options, Trainer

NAME = "cifar10-resnet110"
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")


@pytest.fixture(scope="module")
def made(project_copy, tmp_path_factory) -> Path:
    """A repository with one trained run and the tables of it."""
    project = project_copy(tmp_path_factory.mktemp("audit") / "project", few_figures=True)
    (project.root / "params/figures/he2015-figure7.yaml").unlink()  # drawing takes most of the time
    (project.root / ".gitignore").write_text("__pycache__/\n/results/\n/data/\n")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all"), ("gc", "-q")):
        subprocess.run([*GIT, *words], cwd=project.root, check=True)
    done = project.command("train", NAME, "--scale", "tiny", "--device", "cpu")
    assert done.returncode == 0, done.stdout
    tables.write_tables("tiny", project.root)
    figures.write_figures("tiny", project.root)
    return project.root


def duplicate(project: Path, place: Path) -> Path:
    return shutil.copytree(project, place / "project", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def root(made, tmp_path) -> Path:
    """A copy of it, to be spoiled."""
    return duplicate(made, tmp_path)


def folder(root: Path, seed: int = 0) -> Path:
    return run.get_folder(root / "results/tiny", load(root).resolve(NAME, "tiny"), seed)


def forge(root: Path, change: Callable[[dict, dict, list[str]], object], pages: bool = True) -> None:
    """Change metrics, provenance and lines of the curve, with their hashes, and make the pages again."""
    record = folder(root)
    metrics, provenance = (json.loads((record / name).read_bytes()) for name in (run.METRICS, run.PROVENANCE))
    curve = (record / run.CURVE).read_text().splitlines()
    change(metrics, provenance, curve)
    contents = {run.METRICS: json_bytes(metrics), run.CURVE: "".join(f"{line}\n" for line in curve).encode()}
    provenance["outputs"] = {name: sha256(content) for name, content in contents.items()}
    for name, content in {**contents, run.PROVENANCE: json_bytes(provenance)}.items():
        (record / name).write_bytes(content)
    if pages:
        tables.write_tables("tiny", root)


def gap(root: Path, capsys) -> str:
    capsys.readouterr()
    assert audit("tiny", root) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith("GAP: "), lines
    return lines[0]


def test_what_is_whole_is_walked_to_its_end(made, capsys):
    assert audit("tiny", made) == 0
    *records, total = capsys.readouterr().out.splitlines()
    [line] = records
    path = (folder(made) / run.METRICS).relative_to(made)
    found = re.match(
        rf"{path}: used in (\d+) cell\(s\) and comparison\(s\); commit [0-9a-f]{{12}}, \d+ sources, torch 2\.", line
    )
    assert found and int(found[1]) >= 4, "ResNet-110 stands in four tables"
    assert total.startswith("1 record(s)")


def lower(metrics, provenance, curve) -> None:
    metrics["test_error"] = 1.0


def lower_with_its_count(metrics, provenance, curve) -> None:
    metrics["test"]["wrong"] = 5
    metrics["test_error"] = metrics["test"]["test_error"] = 1.0


FORGED = {
    "an error": (lower, "not that of its last test"),
    "an error and its count": (lower_with_its_count, "the curve ends otherwise"),
    "a training error": (lambda m, p, c: m.update(training_error=0.1), "the curve ends otherwise"),
    "a training loss": (lambda m, p, c: m.update(training_loss=0.1), "the curve ends otherwise"),
    "the best of its tests": (lambda m, p, c: m["best"].update(test_error=0.2), "not the lowest of the curve"),
    "the length": (
        lambda m, p, c: m.update(iterations=7, first_losses=m["first_losses"][:7]),
        "did not run to its end",
    ),
    "a session left out": (lambda m, p, c: p["sessions"][0].update(from_iteration=4), "sessions do not follow"),
    "other weights": (lambda m, p, c: m.update(weights_sha256="0" * 64), "two hashes of its weights"),
    "no losses": (lambda m, p, c: m.update(first_losses=[]), "not the first losses"),
    "the hash of the parameters": (lambda m, p, c: p["params"].update(sha256="0"), "not those of their hash"),
    "the hash of the data": (lambda m, p, c: p["data"].update(dvc_md5="0"), "data have another hash"),
    "the number of images": (lambda m, p, c: p["data"].update(training_images=1), "training_images differ"),
    "the weights left out": (lambda m, p, c: m.update(weights_sha256=None), "two hashes of its weights"),
    "another seed in its name": (lambda m, p, c: p["wildcards"].update(seed=1), "not those of its provenance"),
    "another device": (lambda m, p, c: m.update(device="NVIDIA H200"), "made on another device"),
    "a divergence": (
        lambda m, p, c: m.update(status="diverged", test_error=None),
        "did not diverge where it says",
    ),
    "a time": (lambda m, p, c: p["sessions"][0].update(seconds=3600.0), "took longer than from its start to its end"),
    "a time of the device": (lambda m, p, c: p["sessions"][0].update(device_seconds=3600.0), "took longer than"),
    "rows out of order": (lambda m, p, c: c.insert(1, c[-1]), "other rows than the recipe's"),
    "rows left out": (lambda m, p, c: c.__delitem__(slice(1, -1)), "other rows than the recipe's"),
    "a test left out": (lambda m, p, c: c.__setitem__(2, ",".join(c[2].split(",")[:4]) + ",,"), "other tests than"),
    "most of the losses": (lambda m, p, c: m.update(first_losses=m["first_losses"][:1]), "not the first losses"),
    "twice the images": (
        lambda m, p, c: [m["test"].update({key: 2 * m["test"][key]}) for key in ("wrong", "images")],
        "a test of other images",
    ),
    "the arithmetic": (lambda m, p, c: m.update(arithmetic="bfloat16"), "arithmetic or threads"),
    "the threads": (lambda m, p, c: m.update(cpu_threads=2), "arithmetic or threads"),
    "no process": (lambda m, p, c: p["seed"].update(world_size=0), "trained by no process"),
    "a session of changes in no commit": (
        lambda m, p, c: p["sessions"][0]["git"].update(dirty=True),
        "trained from uncommitted code",
    ),
    "a session without times": (lambda m, p, c: p["sessions"][0].pop("seconds"), "not a record (KeyError"),
    "a session at no time": (lambda m, p, c: p["sessions"][0].update(started="yesterday"), "not a record (ValueError"),
    "a source left out": (
        lambda m, p, c: p["source"].pop("src/identity_mappings/training/loop.py"),
        "loop.py is not among its sources",
    ),
    "another torch": (lambda m, p, c: p["env"].update(torch="2.10.0"), "made with torch 2.10.0, not 2."),
    "no commit": (lambda m, p, c: p["git"].update(commit=None), "outside of any commit"),
    "changes in no commit": (lambda m, p, c: p["git"].update(dirty=True), "uncommitted changes"),
    "an unknown commit": (lambda m, p, c: p["git"].update(commit="0" * 40), "fetch the whole history"),
    "no sources": (lambda m, p, c: p.update(source={}), "names no sources"),
    "another source": (
        lambda m, p, c: p["source"].update({"src/identity_mappings/training/loop.py": "0"}),
        "loop.py is another file in commit",
    ),
    "a source of nowhere": (lambda m, p, c: p["source"].update({"src/own.py": "0"}), "own.py is another file"),
    "another lock": (lambda m, p, c: p["env"].update(lock_sha256="0"), "requirements.lock is another file"),
    "no environment": (lambda m, p, c: p["env"].update(torch=None), "names no environment"),
}


@pytest.mark.parametrize(("change", "message"), FORGED.values(), ids=FORGED)
def test_a_forged_record_is_found(root, capsys, change, message):
    forge(root, change)
    assert message in gap(root, capsys)


def test_a_module_may_be_renamed(root, capsys, monkeypatch):
    """Records of before are judged by the name that it had, new records by the new one."""
    old, new = (f"src/identity_mappings/training/{name}.py" for name in ("loop", "renamed"))
    for words in (("mv", old, new), ("commit", "-q", "-m", "a rename")):
        subprocess.run([*GIT, *words], cwd=root, check=True)
    monkeypatch.setattr(evidence, "RUN_SOURCES", (*evidence.RUN_SOURCES, "training/renamed.py"))
    tables.write_tables("tiny", root)
    assert audit("tiny", root) == 0, "the record of before"
    head = subprocess.run([*GIT, "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True)
    forge(root, lambda m, p, c: p["git"].update(commit=head.stdout.strip()))
    assert f"{old} is another file in commit" in gap(root, capsys)
    forge(root, lambda m, p, c: p["source"].update({new: p["source"].pop(old)}))
    figures.write_figures("tiny", root)
    assert audit("tiny", root) == 0, "a record of the renamed module"
    forge(root, lambda m, p, c: p["source"].pop(new))
    assert "renamed.py is not among its sources" in gap(root, capsys)


@pytest.mark.parametrize(
    ("names", "count"),
    [("DETECTION", 4), ("RUN", 5), ("SIGNAL", 3), ("TEST", 3), ("SINGLE_VIEW", 3), ("COST", 2)],
)
def test_the_files_that_records_must_name_are_there(names, count):
    """If one is renamed, add its new name to the list, and keep the old one for the records of before."""
    package = Path(evidence.__file__).parents[1]
    there = [name for name in getattr(evidence, f"{names}_SOURCES") if (package / name).is_file()]
    assert len(there) == count


def test_a_record_whose_bytes_changed_is_found(root, capsys):
    path = folder(root) / run.METRICS
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed":  0'))
    assert "hash of metrics.json does not match" in gap(root, capsys)


def test_a_changed_parameter_is_found(root, capsys):
    """In the record, where digest and parameters part; and in params/, where the pages are of other ones."""
    forge(root, lambda m, p, c: p["params"]["resolved"]["recipe"].update(momentum=0.8), pages=False)
    assert "parameters does not match" in gap(root, capsys)
    forge(root, lambda m, p, c: p["params"]["resolved"]["recipe"].update(momentum=0.9))
    recipe = root / "params/recipes/he2016-cifar.yaml"
    recipe.write_text(recipe.read_text().replace("momentum: 0.9", "momentum: 0.8"))
    assert "tables are out of date: run identity-mappings tables --scale tiny" in gap(root, capsys)


def test_one_run_under_two_seeds_is_found(root, capsys):
    """Its seeds, names and hashes edited, so that each record for itself would be believed."""
    scale = root / "params/scales/tiny.yaml"
    scale.write_text(scale.read_text().replace("runs: 1", "runs: 2"))
    subprocess.run([*GIT, "commit", "-q", "-a", "-m", "two runs"], cwd=root, check=True)
    shutil.copytree(folder(root), folder(root, 1))
    record = folder(root, 1)
    metrics, provenance = (json.loads((record / name).read_bytes()) for name in (run.METRICS, run.PROVENANCE))
    metrics["seed"] = provenance["seed"]["seed"] = provenance["wildcards"]["seed"] = 1
    content = json_bytes(metrics)
    provenance["outputs"][run.METRICS] = sha256(content)
    (record / run.METRICS).write_bytes(content)
    (record / run.PROVENANCE).write_bytes(json_bytes(provenance))
    tables.write_tables("tiny", root)
    assert "the same run as" in gap(root, capsys)


@pytest.mark.parametrize("stops", [[3], [2, 5]])
def test_an_honest_unfinished_run_is_believed(made, blank_figures, tmp_path, capsys, stops):
    """Between rows, and of several sessions."""
    root = duplicate(made, tmp_path)
    shutil.rmtree(folder(root))
    experiment = load(root).resolve(NAME, "tiny")
    shutil.rmtree(run.get_checkpoint_folder(root / "results/tiny", experiment, 0))  # with the copy of its record
    for stop in stops:
        options = Options(root / "results/tiny", root / "data", root, "cpu", stop_after=stop)
        assert train(experiment, 0, options) == 0
    tables.write_tables("tiny", root)  # which shows no figure of an unfinished run
    capsys.readouterr()
    assert audit("tiny", root) == 0
    assert "used in 0 cell(s)" in capsys.readouterr().out
    assert train(experiment, 0, Options(root / "results/tiny", root / "data", root, "cpu")) == 0
    tables.write_tables("tiny", root)
    figures.write_figures("tiny", root)
    assert audit("tiny", root) == 0, "finished in several sessions"


@pytest.mark.parametrize("at", [0, 3, 4])
def test_an_honest_diverged_run_is_believed(made, blank_figures, tmp_path, capsys, monkeypatch, at):
    root = duplicate(made, tmp_path)
    shutil.rmtree(folder(root))
    shutil.rmtree(root / "results/tiny/checkpoints")  # with the copy of its record
    step = Trainer.step

    def broken(self, iteration):
        loss, wrong, size = step(self, iteration)
        return (loss * float("nan") if iteration == at else loss), wrong, size

    monkeypatch.setattr(Trainer, "step", broken)
    options = Options(root / "results/tiny", root / "data", root, "cpu")
    assert train(load(root).resolve(NAME, "tiny"), 0, options) == 0
    tables.write_tables("tiny", root)
    figures.write_figures("tiny", root)
    assert audit("tiny", root) == 0, capsys.readouterr().out


def test_an_unfinished_run_is_walked_too(root, capsys):
    """The page says how far it is, and what it took."""

    def stopped(metrics, *_) -> None:
        metrics.update(status="unfinished", iterations=4, test_error=None, first_losses=metrics["first_losses"][:4])

    forge(root, stopped, pages=False)
    (folder(root) / run.PARTIAL).mkdir()
    for name in (run.METRICS, run.PROVENANCE, run.CURVE):
        (folder(root) / name).rename(folder(root) / run.PARTIAL / name)
    tables.write_tables("tiny", root)
    assert "its sessions did not run to its end" in gap(root, capsys)


def test_a_swapped_seed_is_found(root, capsys):
    scale = root / "params/scales/tiny.yaml"
    scale.write_text(scale.read_text().replace("runs: 1", "runs: 2"))
    shutil.copytree(folder(root), folder(root, 1))
    tables.write_tables("tiny", root)
    assert "seed does not match: 0, expected 1" in gap(root, capsys)


PAGES = {
    **dict.fromkeys(("tables.md", "comparison.md", "paper.md", "README.md", "metrics.json", "tables.json"), "tables"),
    "report.html": "report",
    "figures/he2016-figure3.svg": "figures",
    "figures/he2016-figure3.csv": "figures",
}


@pytest.mark.parametrize(("name", "command"), PAGES.items(), ids=PAGES)
def test_an_edited_page_is_found(made, tmp_path, capsys, name, command):
    """And one that is missing; but nobody has to have report.html."""
    root = duplicate(made, tmp_path)
    page.write_page("tiny", root)
    assert audit("tiny", root) == 0
    path = root / "results/tiny" / name
    path.write_text(path.read_text() + " ")
    wanted = f"{path}: .* out of date: run identity-mappings {command} --scale tiny"
    assert re.search(wanted, gap(root, capsys))
    path.unlink()
    assert name == "report.html" or re.search(wanted, gap(root, capsys))


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory) -> Path:
    """The same with a claim on signals, the signals of two networks, and the cost record."""
    root = duplicate(made, tmp_path_factory.mktemp("measured"))
    names = [NAME, f"{NAME}-dropout"]
    (root / "params/claims.yaml").write_text(
        "claims: [{name: a, paper: own, source: here, says: So., metric: gradient at initialization, comparisons: "
        f"[{{lower: [{names[0]}], higher: [{names[1]}]}}]}}]"
    )
    subprocess.run([*GIT, "commit", "-q", "-a", "-m", "a claim"], cwd=root, check=True)
    for name in names:
        options = Options(root / "results/tiny", root / "data", root, "cpu")
        measure_signals(load(root).resolve(name, "tiny"), 2, options)
    counting.record_costs("tiny", root)
    tables.write_tables("tiny", root)
    figures.write_figures("tiny", root)
    return root


def changed(root: Path, name: str, change: Callable[[dict, bytes], bytes | None]) -> Path:
    """Change a measurement and its provenance, with the hash, and make the pages again; returns its folder."""
    [path] = (root / "results/tiny").rglob(f"{name}/provenance.json")
    provenance = json.loads(path.read_bytes())
    [(file, _)] = provenance["outputs"].items()
    content = change(provenance, (path.parent / file).read_bytes()) or (path.parent / file).read_bytes()
    (path.parent / file).write_bytes(content)
    provenance["outputs"][file] = sha256(content)
    path.write_bytes(json_bytes(provenance))
    tables.write_tables("tiny", root)
    return path.parent


def test_what_a_claim_and_a_count_stand_on_is_walked_too(measured, capsys):
    capsys.readouterr()
    assert audit("tiny", measured) == 0
    out = capsys.readouterr().out
    assert (
        len(re.findall(r"signals/\S+/signals.csv: used in 1 cell\(s\) and comparison\(s\); commit [0-9a-f]{12}, ", out))
        == 2
    ), out
    assert re.search(r"cost/networks.json: used in \d+ cell\(s\) and comparison\(s\); commit", out)


SIGNALS_FORGED = {
    "no commit": (lambda p, c: p["git"].update(commit=None), "made outside of any commit"),
    "other data": (lambda p, c: p["settings"]["data"].update(md5="0"), "data have another hash"),
    "a parameter": (
        lambda p, c: p["settings"]["params"]["resolved"]["recipe"].update(momentum=0), "not those of their hash"
    ),
    "another seed": (lambda p, c: p["settings"].update(seed=7), "of another seed or length"),
    "another length": (lambda p, c: p["settings"].update(iterations=5), "of another seed or length"),
    "a source left out": (
        lambda p, c: p["source"].pop("src/identity_mappings/training/signals.py"), "is not among its sources"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), SIGNALS_FORGED.values(), ids=SIGNALS_FORGED)
def test_a_forged_record_of_signals_is_found(measured, tmp_path, capsys, change, message):
    root = duplicate(measured, tmp_path)
    changed(root, f"{NAME}-dropout-*", lambda p, c: change(p, c) and None)
    assert message in gap(root, capsys)


@pytest.fixture(scope="module")
def tested(made, tmp_path_factory) -> Path:
    """The same with the run's layer responses, and with a test of it that no page shows."""
    root = duplicate(made, tmp_path_factory.mktemp("tested"))
    options, experiment = Options(root / "results/tiny", root / "data", root, "cpu"), load(root).resolve(NAME, "tiny")
    measure_responses(experiment, 0, options)
    evaluate(experiment, 0, ["single-view-recomputed"], options)
    figures.write_figures("tiny", root)
    tables.write_tables("tiny", root)
    return root


def test_what_no_page_shows_is_walked_too(tested, capsys):
    assert audit("tiny", tested) == 0
    out = capsys.readouterr().out
    assert re.search(r"/responses/responses.csv: used in 0 .*; commit", out), out
    assert re.search(r"/evaluation-single-view-recomputed.json: used in 0 .*; tested by commit", out), out


def edited(project: Path, target: Path, file: Callable[[Path], Path], change: Callable[[dict], object]) -> Path:
    """A copy of a project with a JSON file changed that no page shows, so that the pages stay what they are."""
    root = duplicate(project, target)
    path = file(folder(root))
    facts = json.loads(path.read_bytes())
    change(facts)
    path.write_bytes(json_bytes(facts))
    return root


RESPONSES_FORGED = {
    "no commit": (lambda p: p["git"].update(commit=None), "made outside of any commit"),
    "other data": (lambda p: p["settings"]["data"].update(md5="0"), "data have another hash"),
    "another seed": (lambda p: p["settings"].update(seed=7), "of another run"),
    "another digest": (lambda p: p["settings"].update(digest="0" * 12), "of another run"),
    "other weights": (lambda p: p["parents"].update(weights="0"), "other weights"),
    "another record": (lambda p: p["parents"].update({run.METRICS: "0"}), "other weights"),
    "before the end": (lambda p: p["settings"].update(iteration=1), "other weights"),
    "no parents": (lambda p: p.pop("parents"), "other weights"),
    "no settings": (lambda p: p.pop("settings"), "not a record"),
    "other bytes": (lambda p: p["outputs"].update({"responses.csv": "0"}), "was changed after it was made"),
    "a source left out": (
        lambda p: p["source"].pop("src/identity_mappings/training/signals.py"), "is not among its sources"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), RESPONSES_FORGED.values(), ids=RESPONSES_FORGED)
def test_forged_layer_responses_are_found(tested, tmp_path, capsys, change, message):
    root = edited(tested, tmp_path, lambda record: record / "responses/provenance.json", change)
    assert message in gap(root, capsys)


TEST_FORGED = {
    "another count": (lambda e: e.update(wrong=e["wrong"] + 1), "test_error does not match"),
    "other weights": (lambda e: e.update(weights_sha256="0"), "of other weights"),
    "no weights": (lambda e: e.pop("weights_sha256"), "not a record"),
    "another seed": (lambda e: e.update(seed=7), "seed does not match"),
    "no commit": (lambda e: e["made_by"]["git"].update(commit=None), "made outside of any commit"),
    "no origin": (lambda e: e.pop("made_by"), "made outside of any commit"),
}


@pytest.mark.parametrize(("change", "message"), TEST_FORGED.values(), ids=TEST_FORGED)
def test_a_forged_test_that_no_page_shows_is_found(tested, tmp_path, capsys, change, message):
    root = edited(tested, tmp_path, lambda record: run.get_evaluation_path(record, "single-view-recomputed"), change)
    assert message in gap(root, capsys)


@pytest.mark.parametrize("key", ["weights", "weights_without_batch_norm", "convolution", "linear", "multiply_adds"])
def test_an_edited_count_is_found(measured, tmp_path, capsys, key):
    root = duplicate(measured, tmp_path)

    def change(_: dict, content: bytes) -> bytes:
        record = json.loads(content)
        digest = load(root).resolve(NAME, "tiny").network_digest
        record["networks"][digest][key] += 1
        return json_bytes(record)

    changed(root, "cost", change)
    assert f"{NAME}: not what is counted now" in gap(root, capsys)


# What is missing of git, and how to get it. A good record is never to be thrown away for it.

THROWN_AWAY = re.compile(r"remove|train the run again|make it again|not a record")


def cloned(root: Path, target: Path, *words: str) -> Path:
    """A clone of the project, with its results, which its .gitignore leaves out."""
    subprocess.run([*GIT, "clone", "-q", *words, f"file://{root}", target], check=True)
    shutil.copytree(root / "results", target / "results")
    return target


def test_a_shallow_clone_says_how_to_get_the_commit(made, tmp_path, capsys):
    full = cloned(made, tmp_path / "full")
    subprocess.run([*GIT, "commit", "-q", "--allow-empty", "-m", "later"], cwd=full, check=True)
    shallow = cloned(full, tmp_path / "shallow", "--depth", "1")
    said = gap(shallow, capsys)
    assert "this clone lacks commit" in said and "git fetch --unshallow" in said and not THROWN_AWAY.search(said)
    subprocess.run([*GIT, "fetch", "-q", "--unshallow"], cwd=shallow, check=True)
    assert audit("tiny", shallow) == 0


def test_without_git_or_a_repository_it_says_what_to_get(root, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as without:
        (tmp_path / "bin").mkdir()
        without.setenv("PATH", str(tmp_path / "bin"))
        said = gap(root, capsys)
        assert "git is not installed" in said and "install it" in said and not THROWN_AWAY.search(said)
    shutil.rmtree(root / ".git")
    said = gap(root, capsys)
    assert "in no git repository" in said and "clone the project" in said and not THROWN_AWAY.search(said)


def test_a_commit_that_is_nowhere_here_is_asked_for(root, capsys):
    forge(root, lambda m, p, c: p["git"].update(commit="1" * 40))
    said = gap(root, capsys)
    assert "git fetch --all" in said and "push" in said and not THROWN_AWAY.search(said)


def untold(metrics, provenance, curve) -> None:
    """As made in an archive, without git."""
    nothing = {"commit": None, "dirty": None, "diff_sha256": None}
    provenance.update(git=dict(nothing), unknown=["the folder is in no git repository"])
    for session in provenance["sessions"]:
        session["git"] = {**nothing, "unknown": ["the folder is in no git repository"]}


def test_a_record_that_names_no_commit_is_refused(root, capsys):
    forge(root, untold)
    said = gap(root, capsys)
    assert "made outside of any commit (the folder is in no git repository)" in said and not THROWN_AWAY.search(said)


def test_sources_with_other_line_ends_are_the_same(root, blank_figures, capsys):
    def with_cr(metrics, provenance, curve) -> None:
        for name in provenance["source"]:
            content = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=root, check=True, capture_output=True).stdout
            provenance["source"][name] = sha256(content.replace(b"\n", b"\r\n"))

    forge(root, with_cr)
    figures.write_figures("tiny", root)
    assert audit("tiny", root) == 0, capsys.readouterr().out
