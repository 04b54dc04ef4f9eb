"use strict";
const sheet = document.getElementById("walk"), content = document.getElementById("walk-content");

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
