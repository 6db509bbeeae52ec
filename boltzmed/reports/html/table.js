"use strict";
// Sorts and filters the table of objects.
(() => {
  const table = document.getElementById("objects-table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const [search, target, most, count] = ["search", "target", "most", "count"].map((name) => document.getElementById(`objects-${name}`));
  const headings = [...table.tHead.rows[0].cells];
  const numeric = headings.map((heading) => heading.classList.contains("number"));
  const firstScore = headings.findIndex((heading) => heading.textContent === "mean");
  const texts = rows.map((row) => row.textContent.toLowerCase());

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const limit = most.value === "" ? Infinity : Number(most.value);
    let left = 0;
    rows.forEach((row, k) => {
      const scores = [...row.cells].slice(firstScore + 1).map((cell) => parseFloat(cell.textContent)).filter((score) => score <= limit);
      const group = `${row.cells[0].textContent}: ${row.cells[1].textContent}`;
      const fits = words.every((word) => texts[k].includes(word)) && (!target.value || target.value === group)
        && (limit === Infinity || scores.length > 0);
      row.hidden = !fits;
      left += fits;
    });
    count.textContent = `${left} of ${rows.length} rows`;
  }

  headings.forEach((heading, column) => heading.addEventListener("click", () => {
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const key = (row) => (numeric[column] ? parseFloat(row.cells[column].textContent) : row.cells[column].textContent);
    const compare = (a, b) => {
      if (!numeric[column]) return sign * a.localeCompare(b, "en", { numeric: true });
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // no value: always last
      return sign * (a - b);
    };
    body.append(...rows.map((row) => [key(row), row]).sort((a, b) => compare(a[0], b[0])).map(([, row]) => row));
  }));
  [search, target, most].forEach((input) => input.addEventListener("input", filter));
  document.getElementById("objects-filter").addEventListener("submit", (event) => event.preventDefault());
  filter();
})();
