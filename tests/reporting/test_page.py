"""report.html: what it tells, that it stands alone, and what a person does with it in a browser."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from identity_mappings.errors import UserError
from identity_mappings.reporting import page, reproductions

ROOT = Path(__file__).parents[2]
RESNET, SMALL, GATE = "cifar10-resnet110", "cifar10-resnet20", "cifar10-resnet110-exclusive-gate-b6"
CELL = "he2015-table-6-resnet-20-error"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ORIGIN = {
    "command": "identity-mappings train cifar10-resnet20 --scale paper --seed 1",
    "git": {"commit": COMMIT, "dirty": False},
    "data": {"name": "cifar10", "dvc_md5": "15fc275e5cae3db098ab0f217a684a1f.dir"},
    "hardware": {"cpu": "AMD EPYC", "gpu": None},
    "sessions": [{"device_seconds": 7200.0, "seconds": 7200.0}],
}


def write(bench, scale: str = "paper") -> str:
    page.write_page(scale, bench.root)
    return (bench.root / bench.project.scale(scale).results / page.NAME).read_text()


def read_data(text: str) -> dict:
    """What the page knows of its cells and claims."""
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


def show(text: str, cell: str) -> dict[str, str]:
    """What stands in a cell under each switch."""
    [button] = re.findall(rf'<button[^>]*id="{cell}".*?</button>', text, re.DOTALL)
    parts = re.findall(r'<span data-view="(\w+)"[^>]*>(.*?)</span>', button, re.DOTALL)
    return {view: " ".join(re.sub("<[^>]*>", " ", content).split()) for view, content in parts}


@pytest.fixture(scope="session")
def figure_files(tmp_path_factory):
    """The committed figures: drawing them takes long."""
    folder = tmp_path_factory.mktemp("figures")
    for path in (ROOT / "results/figures").glob("*.svg"):
        shutil.copy2(path, folder)
    return folder


@pytest.fixture
def drawn(counted, figure_files):
    """A bench with the cost record and the figures."""
    shutil.copytree(figure_files, counted.root / "results/figures")
    return counted


@pytest.fixture
def with_weekend(drawn, figure_files):
    """The same with results of scale weekend beside."""
    shutil.copytree(figure_files, drawn.root / "results/weekend/figures")
    return drawn


class Outline(HTMLParser):
    """The elements of a page, and whether they are closed."""

    VOID = frozenset({"meta", "link", "input", "br", "path", "rect", "circle", "line", "polyline", "polygon"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found[name] for name in ("href", "src", "xlink:href") if found.get(name)]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"


def test_the_page_is_whole_and_stands_alone(with_weekend):
    with_weekend.record(SMALL, 8.55, 1, provenance=ORIGIN)
    text = write(with_weekend)
    outline = Outline(text)
    assert not outline.open
    assert len(set(outline.ids)) == len(outline.ids)
    sources = {source.address for source in with_weekend.project.reproductions.sources.values()}
    elsewhere = {link for link in outline.links if not link.startswith(("#", "data:"))} - sources
    assert all(link.startswith("https://arxiv.org/") or re.match(r"\w+\.md", link) for link in elsewhere)
    clips = re.findall(r"url\(#([^)]*)\)", text)
    assert clips and {*clips, *(link[1:] for link in outline.links if re.match("#.", link))} <= set(outline.ids)
    assert "@import" not in text and "url(http" not in text and "fetch(" not in text
    assert str(with_weekend.root) not in text
    assert write(with_weekend) == text, "the same bytes again"


def test_a_run_is_told_with_seed_commit_data_time_and_commands(drawn):
    folder = drawn.record(SMALL, 8.55, 1, provenance=ORIGIN).relative_to(drawn.root).as_posix()
    data = read_data(write(drawn))
    [run] = data["shared"][data["cells"][CELL]["scales"]["paper"]["runs"]]["runs"]
    assert (run["seed"], run["error"]) == (1, "8.55 %") and "<polyline" in run["curve"]
    facts = run["facts"]
    assert (facts["commit"], facts["data hash"]) == (COMMIT, ORIGIN["data"]["dvc_md5"])
    assert (facts["time"], facts["device"], facts["arithmetic"]) == ("2.0 h", "CPU AMD EPYC", "float32")
    commands = list(run["commands"].values())
    assert f"identity-mappings verify {folder}" in commands and f"{ORIGIN['command']} --results again" in commands


def test_a_cell_shows_what_was_published_what_each_scale_has_and_what_others_have(with_weekend):
    for seed, error in enumerate([6.5, 6.6, 6.7]):
        with_weekend.record(RESNET, error, seed)
        with_weekend.record(GATE, error + 9, seed)
    with_weekend.record(RESNET, 20.5, 0, scale="weekend")
    text = write(with_weekend)
    original = show(text, "he2016-table-1-original-error")
    assert (original["published"], original["paper"], original["weekend"]) == ("6.61", "6.60 agrees", "20.50")
    assert re.fullmatch(r"\d\.\d\d \d\.\d\d to \d\.\d\d, \d+ of \d+ sources", original["others"])
    gate = show(text, "he2016-table-1-exclusive-gating-b-g-6-error")
    assert gate == {"published": "8.70", "paper": "15.60 differs", "weekend": "not run", "others": "nobody"}
    assert "overnight" not in original, "a scale without results is not there"


def test_what_is_not_run_shows_what_the_largest_other_scale_and_others_have(with_weekend):
    with_weekend.record(RESNET, 20.5, 0, scale="weekend")
    text = write(with_weekend)
    original = show(text, "he2016-table-1-original-error")
    assert original["paper"] == f"not run weekend 20.50 · others {original['others'].split()[0]}"
    assert show(text, "he2016-table-1-dropout-shortcut-error")["paper"] == "not run"


def test_a_click_lists_every_source_of_others_with_its_place(drawn):
    data = read_data(write(drawn))
    cell = data["cells"]["he2016-table-1-original-error"]
    numbers = [data["shared"][index] for index in cell["numbers"]]
    found = reproductions.find_numbers(
        drawn.project, drawn.project.cells_by_place()["he2016 / Table 1 / original / error"]
    )
    assert len(numbers) == len(found) > 20
    assert cell["sources"] == len({number["source"]["name"] for number in numbers if number["counts"]})
    [hysts] = [number for number in numbers if number["source"]["name"] == "hysts/pytorch_image_classification"]
    assert hysts["value"] == "6.52" and "median of 3 runs" in hysts["source"]["statistic"]
    assert re.fullmatch("https://github.com/hysts/.*/blob/[0-9a-f]{40}/README.md", hysts["source"]["link"])
    wrong = {number["source"]["name"]: number["remarks"][0] for number in numbers if not number["counts"]}
    assert "mislabelled" in wrong["bearpaw/pytorch-classification"]


def test_what_is_not_run_says_how_long_it_would_take(drawn):
    def find_missing() -> dict:
        data = read_data(write(drawn))
        return data["shared"][data["cells"]["he2016-table-1-original-error"]["scales"]["paper"]["missing"]]

    missing = find_missing()
    assert (missing["runs"], missing["time"]) == (5, "unknown: nothing like it was trained")
    assert missing["commands"] == [f"identity-mappings train {RESNET} --seed 0 1 2 3 4 --device gpu"]
    drawn.record(RESNET, 6.6, 0, provenance=ORIGIN)
    missing = find_missing()
    assert (missing["runs"], missing["time"]) == (4, "about 8.0 h on CPU AMD EPYC")
    assert missing["commands"] == [f"identity-mappings train {RESNET} --seed 1 2 3 4 --device gpu"]


def test_claims_are_a_matrix_whose_entries_have_their_comparisons(with_weekend):
    for seed in range(3):
        with_weekend.record(RESNET, 6.5 + seed / 10, seed)
        with_weekend.record(GATE, 8.5 + seed / 10, seed)
        with_weekend.record(f"{RESNET}-full-pre-activation", 19 + seed / 10, seed, scale="weekend")
        with_weekend.record(RESNET, 20 + seed / 10, seed, scale="weekend")
    text = write(with_weekend)
    entries = read_data(text)["claims"]
    [gate] = [
        pair for pair in entries["claim-identity-beats-other-shortcuts-paper"]["comparisons"]
        if pair["sides"][1][0] == GATE
    ]  # fmt: skip
    assert gate["verdict"] == "holds" and gate["difference"].startswith("+2.00 ± 0.1")
    assert gate["sides"] == [[RESNET, "6.60 ± 0.10 (n = 3)"], [GATE, "8.60 ± 0.10 (n = 3)"]]

    def read_entry(name: str) -> str:
        [content] = re.findall(rf'id="claim-{name}"[^>]*>(.*?)</button>', text)
        return " ".join(re.sub("<[^>]*>", " ", content).split())

    assert read_entry("identity-beats-other-shortcuts-paper") == "open 1 holds, 9 not run"
    assert read_entry("identity-beats-other-shortcuts-published") == "undecided 9 holds, 1 undecided"
    assert read_entry("pre-activation-helps-weekend") == "holds 1 holds"
    compared = entries["claim-pre-activation-helps-others"]["comparisons"]
    assert {pair["verdict"] for pair in compared} >= {"holds", "undecided"}
    assert all(pair["source"]["link"].startswith("https://") for pair in compared)
    assert "claim-plain-networks-degrade-others" not in Outline(text).ids, "nobody reports training errors"


def test_a_bad_record_is_told_and_hides_no_other(drawn):
    drawn.record(SMALL, 8.55)
    (drawn.record(RESNET, 6.6) / "curve.csv").write_text("spoiled")
    text = write(drawn)
    assert "Invalid records" in text and "curve.csv" in text and "8.55" in text


def test_words_of_parameters_are_no_markup(drawn):
    drawn.copy.edit("params/tables/he2016-table1.yaml", "a plain net", '"<script>alert(1)</script>"')
    text = write(drawn)
    assert "<script>alert(1)" not in text and "&lt;script&gt;alert(1)" in text
    drawn.copy.edit("params/tables/he2016-table1.yaml", "name: original", "name: </script>original")
    assert read_data(write(drawn))["cells"]["he2016-table-1-script-original-error"]["row"] == "</script>original"


def test_without_figures_it_says_what_to_do(counted):
    with pytest.raises(UserError, match=r"he2015-figure6.svg.*identity-mappings figures --scale paper"):
        page.write_page("paper", counted.root)


def test_with_every_run_it_stays_small(drawn, monkeypatch):
    """All runs of CIFAR at all scales, with curves as long as the papers'."""
    monkeypatch.setattr(type(drawn), "project", drawn.project)  # read once, not for each record
    rows = ["iteration,learning_rate,training_loss,training_error,test_loss,test_error"]
    for row in range(1, 641):
        tested = "0.51234,8.1234" if row % 5 == 0 else ","
        rows.append(f"{row * 100},0.1,0.0123456,{60 / row + 0.1234:.6g},{tested}")
    curve = "\n".join([*rows, ""]).encode()
    for scale in drawn.project.reporting.side_by_side:
        results = Path(drawn.project.scale(scale).results)
        shutil.copytree(ROOT / "results/overnight/figures", drawn.root / results / "figures", dirs_exist_ok=True)
        for experiment in drawn.project.list_to_train(scale):
            for seed in (
                drawn.project.seeds(experiment) if experiment.parameters["dataset"]["name"] != "imagenet" else ()
            ):
                params = {"params": {"resolved": experiment.parameters, "sha256": "0" * 64}}
                drawn.record(experiment.name, 8.1234, seed, scale, curve=curve, provenance={**ORIGIN, **params})
    assert len(write(drawn).encode()) < 0.95 * page.LARGEST


def test_a_scale_of_its_own_has_its_own_page(drawn, figure_files):
    shutil.copytree(figure_files, drawn.root / "results/demo/figures")
    text = write(drawn, "demo")
    assert list(read_data(text)["labels"].values()) == ["Published", "Demo", "Others"]
    assert not (drawn.root / "results" / page.NAME).exists()
    page.write_page("paper", drawn.root)
    assert (drawn.root / "results" / page.NAME).is_file()


def test_the_templates_are_part_of_the_package(project_copy, tmp_path):
    import zipfile

    copy = project_copy(tmp_path / "project")
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = copy.call("python", "-c", build)
    assert done.returncode == 0, done.stdout
    [wheel] = copy.root.glob("*.whl")
    templates = {path.name for path in (ROOT / "src/identity_mappings/reporting/templates").iterdir()}
    names = zipfile.ZipFile(wheel).namelist()
    assert templates == {name.rpartition("/")[2] for name in names if "/templates/" in name}


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for word in (
        "headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def made(bench_type, project_copy, cost_record, figure_files, tmp_path_factory) -> Path:
    """A page with a run of two scales, for all browser tests."""
    bench = bench_type(project_copy(tmp_path_factory.mktemp("page") / "project"))
    shutil.copytree(cost_record, bench.root / "results/cost")
    for results in ("results", "results/weekend"):
        shutil.copytree(figure_files, bench.root / results / "figures")
    bench.record(SMALL, 8.55, 1, provenance=ORIGIN)
    bench.record(SMALL, 20.65, 0, scale="weekend")
    write(bench)
    return bench.root / "results" / page.NAME


@pytest.fixture
def opened(browser, made):
    """The page on a desk's screen; afterwards nothing has gone wrong in it."""
    size(browser, 1280)
    browser.get("about:blank")
    browser.get(made.as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def size(browser, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def press(browser, *keys: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    for key in keys:
        ActionChains(browser).send_keys(getattr(Keys, key)).perform()


@pytest.mark.browser
def test_the_switch_changes_what_the_tables_show(opened):
    found = {}
    for view in ("published", "paper", "weekend", "others"):
        opened.find_element("css selector", f"input[value={view}] + span").click()
        found[view] = opened.execute_script(
            "return [...document.getElementById(arguments[0]).querySelectorAll(':scope > span')]"
            ".filter((span) => span.offsetParent).map((span) => span.firstChild.textContent)",
            CELL,
        )
    assert found.pop("others")[0].startswith("8.")
    assert found == {"published": ["8.75"], "paper": ["8.55"], "weekend": ["20.65"]}


@pytest.mark.browser
def test_a_click_on_a_number_opens_its_way_back(opened):
    opened.find_element("id", CELL).click()
    told = opened.find_element("tag name", "dialog").text
    for words in (
        COMMIT,
        "seed\n1",
        "15fc275e5cae3db098ab0f217a684a1f.dir",
        "identity-mappings verify",
        "20.65",
        "Others",
    ):
        assert words in told
    details = opened.find_elements("css selector", "dialog details[open] summary")
    assert [entry.text for entry in details][1:] == ["dataset", "network", "recipe"]
    opened.find_element("css selector", "dialog .close").click()
    assert not opened.find_element("tag name", "dialog").is_displayed()


@pytest.mark.browser
def test_the_view_of_others_opens_their_list(opened):
    opened.find_element("css selector", "input[value=others] + span").click()
    opened.find_element("id", CELL).click()
    links = opened.find_elements("css selector", "dialog .found a")
    assert len(links) > 20 and all(link.is_displayed() for link in links)


@pytest.mark.browser
def test_a_click_on_a_verdict_opens_its_comparisons(opened):
    opened.find_element("id", "claim-residual-networks-gain-from-depth-others").click()
    told = opened.find_element("tag name", "dialog").text
    assert "The deeper a residual network is" in told and "raphaelreme/torch-resnet" in told and "holds" in told


@pytest.mark.browser
def test_the_keyboard_does_what_the_pointer_does(opened):
    opened.execute_script("document.getElementById(arguments[0]).focus()", CELL)
    press(opened, "ENTER")
    dialog = opened.find_element("tag name", "dialog")
    assert dialog.is_displayed()
    assert opened.execute_script("return arguments[0].contains(document.activeElement)", dialog)
    press(opened, "ESCAPE")
    assert not dialog.is_displayed()
    assert opened.execute_script("return document.activeElement.id") == CELL, "the focus comes back"
    opened.execute_script("document.querySelector('input[name=view]:checked').focus()")
    press(opened, "ARROW_RIGHT")
    assert opened.execute_script("return document.body.dataset.view") == "weekend"


@pytest.mark.browser
def test_every_figure_is_drawn_with_its_own_shapes(opened):
    """Ids of several figures do not meet: a tick or a clip path is that of its figure."""
    for scale in ("paper", "weekend"):
        switch = opened.find_element("css selector", f"input[name=figures][value={scale}] + span")
        assert switch.text == scale
        switch.click()
        drawn = [svg for svg in opened.find_elements("css selector", ".drawing svg") if svg.is_displayed()]
        assert len(drawn) == len(list((ROOT / "params/figures").iterdir()))
        for svg in drawn:
            assert svg.size["width"] > 300 and svg.size["height"] > 150 and svg.get_attribute("aria-label")
    foreign = "return [...document.querySelectorAll('.drawing use')].filter((use) => !use.closest('svg').contains("
    foreign += "document.querySelector(use.getAttribute('xlink:href')))).length"
    assert opened.execute_script(foreign) == 0


@pytest.mark.browser
def test_a_link_to_a_cell_opens_it(browser, made):
    browser.get("about:blank")
    browser.get(f"{made.as_uri()}#{CELL}")
    assert COMMIT in browser.find_element("tag name", "dialog").text


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 390, 768])
def test_on_a_narrow_screen_nothing_is_cut_off(opened, width):
    size(opened, width)
    wide = "return document.documentElement.scrollWidth"
    assert opened.execute_script(wide) <= width
    for button in (CELL, "claim-residual-networks-gain-from-depth-others"):
        opened.execute_script("document.getElementById(arguments[0]).click()", button)
        dialog = opened.find_element("tag name", "dialog")
        assert dialog.size["width"] <= width
        assert opened.execute_script("return arguments[0].scrollWidth", dialog) <= width
        press(opened, "ESCAPE")


@pytest.mark.browser
def test_the_committed_page_is_no_wider_than_a_phone(browser):
    browser.get((ROOT / "results/report.html").as_uri())
    size(browser, 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_printed_it_has_its_tables_and_no_controls(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not any(found.is_displayed() for found in opened.find_elements("css selector", ".switch"))
        assert opened.find_element("id", CELL).is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
