"use strict";
(() => {
  const bar = document.querySelector(".search");
  const field = bar.querySelector("input");
  const buttons = [...bar.querySelectorAll("button")];
  const shown = bar.querySelector("output");
  const rows = [...document.querySelectorAll("details.operation, tr.grave, tr.other")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const operations = rows.filter((row) => row.matches("details.operation")).length;
  let outcome = "";
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, place) => {
      const operation = row.matches("details.operation");
      const right = words.every((word) => texts[place].includes(word)) && (!outcome || row.dataset.outcome === outcome);
      row.hidden = !right;
      if (operation && right) count += 1;
    });
    shown.textContent = `${count} of ${operations} operations`;
  };
  let waiting = 0;
  field.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  buttons.forEach((button) => button.addEventListener("click", () => {
    outcome = outcome === button.dataset.outcome ? "" : button.dataset.outcome;
    buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.outcome === outcome)));
    filter();
  }));
  bar.hidden = false;
  filter();
})();
