"use strict";
// Column heads of sortable tables become buttons; without scripts the table stays as it came.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (one, two) => one.localeCompare(two, undefined, { numeric: true });
      const numbers = [...table.tBodies[0].rows].every((row) => row.cells[column].dataset.value !== undefined);
      const rows = [...table.tBodies[0].rows].sort((one, two) =>
        numbers ? value(one) - value(two) : compare(value(one), value(two)));
      table.tBodies[0].append(...(falling ? rows.reverse() : rows));
    });
  });
}
