"use strict";
const data = JSON.parse(document.getElementById("data").textContent), dialog = document.querySelector("dialog");

// The switches: what tables show, and whose figures.
for (const input of document.querySelectorAll(".switch input")) {
  const show = () => { document.body.dataset[input.name] = input.value; };
  input.addEventListener("change", show);
  if (input.checked) show();
}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.flat(Infinity).filter((child) => child));
  return element;
}
const badge = (word) => make("b", { className: `verdict ${word.replaceAll(" ", "-")}` }, word);
const small = (text) => make("small", {}, text);
const number = (name, text) => make("div", {}, small(name), make("b", {}, text));
const fold = (open, title, ...children) => make("details", { open }, make("summary", {}, title), ...children);
const list = (facts) => make("dl", {}, Object.entries(facts).map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text))));

function command(text, name) {
  const code = make("code", { className: "command" }, text), button = make("button", { type: "button" }, "copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text).then(() => { button.textContent = "copied"; }, () => { button.textContent = "select it"; });
  });
  if (navigator.clipboard) code.append(button);
  return [name && small(name), code];
}

// The way back from what a scale has for a cell.
function describeRun(run) {
  const header = make("header", {}, number("seed", String(run.seed)), number("error", run.error));
  header.insertAdjacentHTML("afterbegin", run.curve);
  return make("section", { className: "run" }, header, list(run.facts), Object.entries(run.commands).map(([name, text]) => command(text, name)));
}

function describeScale(name, scale, open) {
  const runs = data.shared[scale.runs], missing = data.shared[scale.missing];
  return fold(open, [`${data.labels[name]}: ${scale.text} `, scale.verdict !== scale.text && badge(scale.verdict)],
    make("p", {}, scale.reason),
    list(Object.fromEntries(Object.entries(scale.numbers || {}).filter(([, text]) => text))),
    runs && [list(runs.shared), runs.runs.map(describeRun)],
    missing && [make("p", {}, `Runs to go: ${missing.runs}. Time: ${missing.time}. Data: ${missing.data}.`), missing.commands.map((text) => command(text))],
    scale.facts && list(scale.facts),
    Object.entries(scale.parameters || {}).map(([part, index]) => fold(false, part, make("pre", {}, data.shared[index]))));
}

const describeSource = (source) => [make("a", { href: source.link }, source.name), small(` ${source.place} · ${source.statistic}`)];

function describeOthers(cell, open) {
  if (!cell.numbers.length) return make("p", {}, "Others: no source with a number for this cell was found.");
  return fold(open, `Others: ${cell.sources} ${cell.sources === 1 ? "source" : "sources"}`,
    list(Object.fromEntries(cell.summaries)),
    cell.numbers.map((index) => data.shared[index]).map((found) => make("p", { className: "found" },
      make("b", {}, found.value), " ", !found.counts && badge("not counted"), " ", describeSource(found.source), found.remarks.map((text) => small(text)))));
}

function describeCell(cell) {
  const view = document.body.dataset.view, scales = Object.entries(cell.scales);
  const [chosen] = scales.find(([name, scale]) => name === view && scale.runs != null) || scales.find(([, scale]) => scale.runs != null) || [];
  return [
    make("div", { className: "numbers" }, number("Published", cell.published), scales.map(([name, scale]) => number(data.labels[name], scale.text)),
      cell.summaries.slice(0, 1).map(([statistic, text]) => number(`Others, ${statistic}`, text))),
    scales.map(([name, scale]) => describeScale(name, scale, name === (chosen || scales[0][0]) && view !== "others")),
    describeOthers(cell, view === "others" || !chosen),
  ];
}

// The comparisons behind a verdict on a claim.
function describeComparison(found) {
  const [lower, higher] = found.sides.map(([name, text], index) => make("div", {}, index && make("i", {}, "said to be below "), make("code", {}, name), ` ${text}`));
  return make("div", { className: "found" }, badge(found.verdict), found.difference && [make("i", {}, " difference "), found.difference], lower, higher,
    found.source && make("small", {}, describeSource(found.source)));
}

function open(id) {
  const cell = data.cells[id], claim = data.claims[id];
  if (!cell && !claim) return;
  document.getElementById("title").replaceChildren(...(cell
    ? [small(cell.place), cell.row, " ", make("i", {}, cell.column)]
    : [small(data.labels[claim.column]), claim.says]));
  document.getElementById("content").replaceChildren(make("div", {}, cell ? describeCell(cell) : claim.comparisons.map(describeComparison)));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  history.replaceState(null, "", `#${id}`);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.cell");
  if (button) open(button.id);
  else if (event.target === dialog) dialog.close();
});
dialog.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
open(decodeURIComponent(location.hash.slice(1)));
