"use strict";
const sheet = document.getElementById("walk"), content = document.getElementById("walk-content");
const pointer = document.getElementById("pointer");

// The switch: published, rebuilt, difference, spread.
for (const input of document.querySelectorAll("input[name=view]")) {
  input.addEventListener("change", () => { document.body.dataset.view = input.value; });
  if (input.checked) document.body.dataset.view = input.value;
}

// The way back from a cell.
function part(selector) {
  const found = document.querySelector(selector);
  return found && found.content.cloneNode(true);
}

function open(id) {
  const walk = part(`template[data-walk="${CSS.escape(id)}"]`);
  if (!walk) return false;
  for (const place of walk.querySelectorAll("[data-part]")) {
    const shared = part(`template[data-name="${CSS.escape(place.dataset.part)}"]`);
    if (shared) place.replaceChildren(shared);
  }
  content.replaceChildren(walk);
  if (navigator.clipboard) for (const command of content.querySelectorAll(".command")) addCopy(command);
  if (!sheet.open) sheet.showModal();
  sheet.scrollTop = 0;
  history.replaceState(null, "", `#${id}`);
  return true;
}

function addCopy(command) {
  const text = command.textContent, button = document.createElement("button");
  button.type = "button";
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text).then(() => { button.textContent = "copied"; }, () => { button.textContent = "select it"; });
  });
  command.append(button);
}

document.addEventListener("click", (event) => {
  const cell = event.target.closest("button.cell"), tile = event.target.closest("[data-opens]");
  if (cell) open(cell.id);
  else if (tile && open(tile.dataset.opens)) event.preventDefault();
  else if (event.target === sheet) sheet.close();
});
sheet.addEventListener("close", () => {
  const id = location.hash.slice(1);
  history.replaceState(null, "", location.pathname + location.search);
  const cell = id && document.getElementById(id);
  if (cell && !document.activeElement.dataset.opens) cell.focus({ preventScroll: true });
});
if (location.hash.length > 1) open(decodeURIComponent(location.hash.slice(1)));

// Values under the pointer, or by the arrow keys.
function linesOf(chart) {
  return chart.lines ??= [...chart.querySelectorAll("polyline[data-values]")].map((line) => ({
    label: line.dataset.label, quantity: line.dataset.quantity, colour: line.getAttribute("stroke"),
    points: line.dataset.values.split(" ").map((text) => text.split(",").map(Number)),
  }));
}

function show(chart, x, left, top) {
  const [start, end, low, high] = chart.dataset.plot.split(" ").map(Number);
  let nearest = null;
  for (const line of linesOf(chart)) for (const [at] of line.points) if (nearest === null || Math.abs(at - x) < Math.abs(nearest - x)) nearest = at;
  if (nearest === null) return;
  chart.at = nearest;
  const pixels = start + (nearest - low) / (high - low || 1) * (end - start);
  chart.cross ??= chart.appendChild(document.createElementNS(chart.namespaceURI, "line"));
  for (const [name, value] of Object.entries({ class: "cross", x1: pixels, x2: pixels, y1: 10, y2: 266 })) chart.cross.setAttribute(name, value);
  const head = document.createElement("b");
  head.textContent = `${chart.dataset.x}: ${nearest.toLocaleString("en")}`;
  const rows = linesOf(chart).flatMap((line) => {
    const point = line.points.find(([at]) => at === nearest);
    if (!point) return [];
    const row = document.createElement("div"), mark = document.createElement("i");
    mark.style.background = line.colour;
    row.append(mark, `${line.label}, ${line.quantity}: ${point[1]}`);
    return [row];
  });
  pointer.replaceChildren(head, ...rows);
  pointer.hidden = false;
  pointer.style.left = `${Math.max(4, Math.min(left + 14, innerWidth - pointer.offsetWidth - 8))}px`;
  pointer.style.top = `${Math.max(4, Math.min(top + 14, innerHeight - pointer.offsetHeight - 8))}px`;
}

function hide(chart) {
  pointer.hidden = true;
  chart.cross?.remove();
  chart.cross = undefined;
}

for (const chart of document.querySelectorAll("svg.chart")) {
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect(), [start, end, low, high] = chart.dataset.plot.split(" ").map(Number);
    const at = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
    show(chart, low + (at - start) / (end - start) * (high - low), event.clientX, event.clientY);
  });
  chart.addEventListener("pointerleave", () => hide(chart));
  chart.addEventListener("blur", () => hide(chart));
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return void (event.key === "Escape" && hide(chart));
    event.preventDefault();
    const places = [...new Set(linesOf(chart).flatMap((line) => line.points.map(([at]) => at)))].sort((a, b) => a - b);
    const index = Math.max(0, Math.min(places.length - 1, (chart.at === undefined ? -1 : places.indexOf(chart.at)) + step));
    const box = chart.getBoundingClientRect();
    show(chart, places[index], box.left + box.width / 2, box.top + box.height / 3);
  });
}
