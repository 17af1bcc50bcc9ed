"use strict";
// Sorting and filtering of tables, and the figures. All text was escaped when the page was written; here it only moves.
(() => {
  const sortValue = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };

  // numbers first, in their order, then texts; what is empty comes last whichever way
  const compare = (one, other) => {
    if (typeof one === "number" && typeof other === "number") return one - other;
    if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
    return one.localeCompare(other, "en", { numeric: true });
  };

  const isEmpty = (value) => value === "" || value === "–";

  const sort = (table, column) => {
    const head = table.tHead.rows[0].cells[column];
    const falls = head.getAttribute("aria-sort") === "ascending";
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [sortValue(row, column), row]);
    rows.sort(([one], [other]) => {
      if (isEmpty(one) || isEmpty(other)) return isEmpty(one) - isEmpty(other);
      return falls ? compare(other, one) : compare(one, other);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };

  const filter = (table, text, count) => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const content = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => content.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown} of ${table.tBodies[0].rows.length} rows` : "";
  };

  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      cell.firstElementChild.addEventListener("click", () => sort(table, column));
    });
  }
  for (const field of document.querySelectorAll("input[data-filters]")) {
    const table = document.getElementById(field.dataset.filters);
    const count = document.querySelector(`output[data-counts="${field.dataset.filters}"]`);
    field.addEventListener("input", () => filter(table, field.value, count));
  }

  const figures = JSON.parse(document.getElementById("figures").textContent);

  const ofPage = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // the colours of figures are chosen for white paper; on dark paper three of them are too dark
  const onDark = { "#0072B2": "#4FA9E6", "#009E73": "#2BC59A", "#D55E00": "#FF8A45" };
  const coloured = (value) => {
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, coloured(item)]));
    }
    if (value === "page") return [[0, ofPage("--faint")], [1, ofPage("--strong")]];
    return (window.matchMedia("(prefers-color-scheme: dark)").matches && onDark[value]) || value;
  };

  const themed = (layout) => {
    const [ink, line, soft] = ["--ink", "--line", "--soft"].map(ofPage);
    const axes = Object.fromEntries(
      ["xaxis", "yaxis"].map((name) => [name, { gridcolor: line, linecolor: line, zerolinecolor: line, ...layout[name] }]),
    );
    return {
      margin: { t: 40, r: 20, b: 50, l: 60 },
      ...layout,
      ...axes,
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
      font: { color: ink, family: "system-ui, sans-serif", size: 13 },
    };
  };

  const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  const drawn = new Set();
  const draw = (id) => {
    const { data, layout } = figures[id];
    const box = document.getElementById(id);
    drawn.add(id);
    try {
      Plotly.react(box, coloured(data), themed(layout), options);
    } catch (error) {
      box.textContent = "This browser cannot draw the figure; the table below says the same.";
    }
  };

  // drawn when they come near the window: hundreds of lines take a while
  const watch = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        watch.unobserve(entry.target);
        draw(entry.target.id);
      }
    },
    { rootMargin: "600px" },
  );
  for (const id of Object.keys(figures)) watch.observe(document.getElementById(id));
  const drawAll = () => { for (const id of Object.keys(figures)) draw(id); };
  window.addEventListener("beforeprint", drawAll);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
})();
