// Keys: from hit to hit, to the search field, and the whole text of a hit.
"use strict";

const lists = () => [...document.querySelectorAll(".column")].map((column) => [...column.querySelectorAll(".hit")]);

// The hit that has the focus, wherever in it.
function placeOfFocus() {
  const hit = document.activeElement.closest(".hit");
  for (const [column, hits] of lists().entries()) {
    const row = hits.indexOf(hit);
    if (row >= 0) return { column, row };
  }
  return null;
}

function move(key) {
  const all = lists();
  const place = placeOfFocus();
  if (!place) {
    if (key === "ArrowDown") all.find((hits) => hits.length)?.[0].focus();
    return key === "ArrowDown" && all.some((hits) => hits.length);
  }
  const { column, row } = place;
  if (key === "ArrowUp" && row === 0) {
    at("question").focus();
    return true;
  }
  const step = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] }[key];
  const target = all[column + step[0]];
  if (!target?.length) return false;
  const next = target[step[0] ? Math.min(row, target.length - 1) : row + step[1]];
  next?.focus();
  return Boolean(next);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.("input:not([type=checkbox])");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    at("question").focus();
    at("question").select();
  } else if (event.key === "Escape" && event.target !== at("question")) {
    at("question").focus();
  } else if (event.key === "Enter" && event.target.matches?.(".hit")) {
    event.target.querySelector(".open")?.click();
  } else if (event.target.closest?.(".context")) {
    return; // the arrow keys scroll it
  } else if (event.key === "ArrowDown" || (!typing && event.key.startsWith("Arrow"))) {
    if (move(event.key)) event.preventDefault();
  }
});
