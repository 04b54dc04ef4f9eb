"""report.html: what it tells, that it stands alone, and what a person does with it in a browser."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from identity_mappings.errors import UserError
from identity_mappings.reporting import page

ROOT = Path(__file__).parents[2]
RESNET, SMALL, GATE = "cifar10-resnet110", "cifar10-resnet20", "cifar10-resnet110-exclusive-gate-b6"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ORIGIN = {
    "command": "identity-mappings train cifar10-resnet20 --scale paper --seed 1",
    "git": {"commit": COMMIT, "dirty": False},
    "data": {"name": "cifar10", "dvc_md5": "15fc275e5cae3db098ab0f217a684a1f.dir"},
    "hardware": {"cpu": "AMD EPYC", "gpu": None},
    "sessions": [{"device_seconds": 7200.0, "seconds": 7200.0}],
}


def write(bench, scale: str = "paper") -> str:
    page.write(scale, bench.root)
    return (bench.root / bench.project.scale(scale).results / page.NAME).read_text()


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


def test_the_page_is_whole_and_stands_alone(drawn):
    drawn.record(SMALL, 8.55, 1, provenance=ORIGIN)
    text = write(drawn)
    outline = Outline(text)
    assert not outline.open
    in_page = [name for name in outline.ids if name != "walk-title"]  # of each walk's own heading
    assert len(set(in_page)) == len(in_page)
    elsewhere = [link for link in outline.links if not link.startswith(("#", "data:"))]
    assert all(link.startswith("https://arxiv.org/") or re.match(r"(figures/|\w+\.md)", link) for link in elsewhere)
    clips = re.findall(r"url\(#([^)]*)\)", text)
    assert clips and {*clips, *(link[1:] for link in outline.links if re.match("#.", link))} <= set(outline.ids)
    assert "@import" not in text and "url(http" not in text and "fetch(" not in text
    assert str(drawn.root) not in text
    assert len(text.encode()) < page.LARGEST
    assert write(drawn) == text, "the same bytes again"


def test_a_run_is_told_with_seed_commit_data_time_and_commands(drawn):
    folder = drawn.record(SMALL, 8.55, 1, provenance=ORIGIN).relative_to(drawn.root)
    [run] = re.findall(r'<section class="run">.*?</section>', write(drawn), re.DOTALL)
    for words in (
        "<b>1</b>", "8.55 %", COMMIT, ORIGIN["data"]["dvc_md5"], "2.0 h", "CPU AMD EPYC", "float32",
        f"identity-mappings verify {folder.as_posix()}", f"{ORIGIN['command']} --results again", "<svg",
    ):  # fmt: skip
        assert words in run, words


def test_verdicts_have_a_word_and_a_tone(drawn):
    for seed, error in enumerate([6.5, 6.6, 6.7]):
        drawn.record(RESNET, error, seed)
        drawn.record(GATE, error + 9, seed)
    text = write(drawn)
    by_id = {name: tone for tone, name in re.findall(r'class="cell (\w+)" id="he2016-table-1-([^"]*)"', text)}
    assert by_id["original-error"] == "good"
    assert by_id["exclusive-gating-b-g-6-error"] == "bad"
    assert by_id["dropout-shortcut-error"] == "none"
    [original] = re.findall(r'id="he2016-table-1-original-error".*?</button>', text)
    views = dict(re.findall(r'<span class="(\w+)">([^<]*)</span>', original))
    assert views == {
        "rebuilt": "6.60",
        "published": "6.61",
        "difference": "−0.01",
        "spread": "6.60 ± 0.10 (n = 3)",
    }
    assert "<small>agrees</small>" in original


def test_what_is_not_run_says_how_long_it_would_take(drawn):
    text = write(drawn)
    [walk] = re.findall(r'<template data-walk="he2016-table-1-original-error">.*?</template>', text, re.DOTALL)
    assert "5 runs to go" in walk and "Time: unknown: nothing like it was trained." in walk
    assert f"identity-mappings train {RESNET} --seed 0 1 2 3 4 --device gpu" in walk
    drawn.record(RESNET, 6.6, 0, provenance=ORIGIN)
    [walk] = re.findall(r'<template data-walk="he2016-table-1-original-error">.*?</template>', write(drawn), re.DOTALL)
    assert "4 runs to go" in walk and "about 8.0 h on CPU AMD EPYC" in walk
    assert f"identity-mappings train {RESNET} --seed 1 2 3 4 --device gpu" in walk


def test_claims_have_a_picture_of_the_difference_and_its_error(drawn):
    for seed in range(3):
        drawn.record(RESNET, 6.5 + seed / 10, seed)
        drawn.record(GATE, 8.5 + seed / 10, seed)
    text = write(drawn)
    [claim] = re.findall(r'<article class="claim \w+">\s*<h3>Of all shortcuts.*?</article>', text, re.DOTALL)
    rows = [row for row in re.findall(r"<tr>.*?</tr>", claim, re.DOTALL) if f"<code>{GATE}</code>" in row]
    assert len(rows) == 1 and "+2.00 ± 0.1" in rows[0]
    [centre] = re.findall(r'<path d="M(\d+) 0v20"/>', rows[0])
    [at], [paper] = (re.findall(rf'class="{kind}" cx="(\d+)"', rows[0]) for kind in ("holds", "paper"))
    [(begin, end)] = re.findall(r'class="error" d="M(\d+) 10H(\d+)"', rows[0])
    assert int(centre) < int(begin) < int(at) < int(end) and int(paper) > int(at), "8.70 - 6.61 = 2.09 on paper"


def test_a_bad_record_is_told_and_hides_no_other(drawn):
    drawn.record(SMALL, 8.55)
    (drawn.record(RESNET, 6.6) / "curve.csv").write_text("spoiled")
    text = write(drawn)
    assert "Invalid records" in text and "curve.csv" in text and "8.55" in text


def test_words_of_parameters_are_no_markup(drawn):
    drawn.copy.edit("params/tables/he2016-table1.yaml", "a plain net", '"<script>alert(1)</script>"')
    text = write(drawn)
    assert "<script>alert(1)" not in text and "&lt;script&gt;alert(1)" in text


def test_without_figures_it_says_what_to_do(counted):
    with pytest.raises(UserError, match=r"he2015-figure6.svg.*identity-mappings figures --scale paper"):
        page.write("paper", counted.root)


def test_with_every_run_of_the_papers_it_stays_small(drawn, monkeypatch):
    """All runs of CIFAR, with curves as long as the papers'."""
    monkeypatch.setattr(type(drawn), "project", drawn.project)  # read once, not for each record
    rows = ["iteration,learning_rate,training_loss,training_error,test_loss,test_error"]
    for row in range(1, 641):
        tested = "0.51234,8.1234" if row % 5 == 0 else ","
        rows.append(f"{row * 100},0.1,0.0123456,{60 / row + 0.1234:.6g},{tested}")
    curve = "\n".join([*rows, ""]).encode()
    origin = {**ORIGIN, "params": None}
    for experiment in drawn.project.list_to_train("paper"):
        if experiment.parameters["dataset"]["name"] != "imagenet":
            for seed in drawn.project.seeds(experiment):
                params = {"params": {"resolved": experiment.parameters, "sha256": "0" * 64}}
                drawn.record(experiment.name, 8.1234, seed, curve=curve, provenance={**origin, **params})
    assert len(write(drawn).encode()) < 0.95 * page.LARGEST


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
    """A page with one run, for all browser tests."""
    bench = bench_type(project_copy(tmp_path_factory.mktemp("page") / "project"))
    shutil.copytree(cost_record, bench.root / "results/cost")
    shutil.copytree(figure_files, bench.root / "results/figures")
    bench.record(SMALL, 8.55, 1, provenance=ORIGIN)
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


CELL = "he2015-table-6-resnet-20-error"


@pytest.mark.browser
def test_the_switch_changes_what_the_tables_show(opened):
    found = {}
    for view in page.VIEWS:
        opened.find_element("css selector", f"input[value={view}] + span").click()
        found[view] = opened.execute_script(
            "return [...document.getElementById(arguments[0]).querySelectorAll(':scope > span')]"
            ".filter((span) => span.offsetParent).map((span) => span.textContent)",
            CELL,
        )
    assert found == {"rebuilt": ["8.55"], "published": ["8.75"], "difference": ["−0.20"], "spread": ["8.55 (n = 1)"]}


@pytest.mark.browser
def test_a_click_on_a_number_opens_its_way_back(opened):
    """As a new reader: the number stands at the top, and behind it the commit and the seed."""
    tile = opened.find_element("css selector", "[data-opens]")
    assert "8.55" in tile.text and tile.location["y"] < 800, "in sight without scrolling"
    tile.click()
    told = opened.find_element("id", "walk").text
    for words in (COMMIT, "seed\n1", "15fc275e5cae3db098ab0f217a684a1f.dir", "identity-mappings verify"):
        assert words in told
    opened.find_element("css selector", "#walk .close").click()
    assert not opened.find_element("id", "walk").is_displayed()
    opened.find_element("id", CELL).click()
    assert COMMIT in opened.find_element("id", "walk").text
    details = opened.find_elements("css selector", "#walk details summary")
    assert [entry.text for entry in details] == ["dataset", "network", "recipe"]


@pytest.mark.browser
def test_the_keyboard_does_what_the_pointer_does(opened):
    opened.execute_script("document.getElementById(arguments[0]).focus()", CELL)
    press(opened, "ENTER")
    assert opened.find_element("id", "walk").is_displayed()
    assert opened.execute_script("return document.getElementById('walk').contains(document.activeElement)")
    press(opened, "ESCAPE")
    assert not opened.find_element("id", "walk").is_displayed()
    assert opened.execute_script("return document.activeElement.id") == CELL, "the focus comes back"
    opened.execute_script("document.querySelector('input[name=view]').focus()")
    press(opened, "ARROW_RIGHT")
    assert opened.execute_script("return document.body.dataset.view") == "published"


@pytest.mark.browser
def test_every_figure_is_drawn_with_its_own_shapes(opened):
    """Ids of several figures do not meet: a tick or a clip path is that of its figure."""
    drawn = opened.find_elements("css selector", ".drawing svg")
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
    assert COMMIT in browser.find_element("id", "walk").text


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 390, 768])
def test_on_a_narrow_screen_nothing_is_cut_off(opened, width):
    size(opened, width)
    wide = "return document.documentElement.scrollWidth"
    assert opened.execute_script(wide) <= width
    tile = opened.find_element("css selector", "[data-opens]")
    opened.execute_script("arguments[0].click()", tile)
    sheet = opened.find_element("id", "walk")
    assert sheet.size["width"] <= width
    assert opened.execute_script("return arguments[0].scrollWidth", sheet) <= width
    assert COMMIT in sheet.text.replace("\n", "")


@pytest.mark.browser
@pytest.mark.parametrize("path", ["results/report.html", "results/overnight/report.html"])
def test_no_committed_page_is_wider_than_a_phone(browser, path):
    browser.get((ROOT / path).as_uri())
    size(browser, 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_printed_it_has_its_tables_and_no_controls(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not opened.find_element("css selector", ".toolbar").is_displayed()
        assert opened.find_element("id", CELL).is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
