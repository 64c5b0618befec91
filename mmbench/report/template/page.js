"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const field = (id) => document.getElementById(id);
const all = (query, from = document) => [...from.querySelectorAll(query)];
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

function element(name, attributes = {}, ...inside) {
  const svg = ["svg", "path", "line", "text", "g", "circle", "rect", "polyline", "polygon"];
  const made = svg.includes(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

/* Filters: what is hidden is hidden by an attribute, so that print and screen readers agree. */
function filter() {
  const [dataset, metric, protocol] = ["dataset", "metric", "protocol"].map((id) => field(id).value);
  const words = field("method").value.trim().toLowerCase();
  let tables = 0;
  for (const sheet of all(".sheet")) {
    const { dataset: d, protocol: p } = sheet.dataset;
    const rows = all("tbody tr", sheet);
    for (const row of rows) row.hidden = words !== "" && !row.dataset.method.includes(words);
    sheet.hidden = (dataset && d && d !== dataset) || (protocol && p && p !== protocol)
      || rows.every((row) => row.hidden);
    tables += sheet.hidden ? 0 : 1;
  }
  for (const cell of all("[data-metric]")) cell.hidden = metric !== "" && cell.dataset.metric !== metric;
  for (const part of all("details.part")) part.hidden = all(".sheet", part).every((s) => s.hidden);
  for (const study of all("main > section")) study.hidden = all(".sheet", study).every((s) => s.hidden);
  field("shown").textContent = `${tables} of ${all(".sheet").length} tables`;
}
for (const id of ["dataset", "metric", "protocol"]) field(id).addEventListener("change", filter);
field("method").addEventListener("input", filter);
field("filters").addEventListener("submit", (event) => event.preventDefault());

/* Sorting: numbers by value, what is missing last; a third press gives the study's order back. */
function sort(heading) {
  const table = heading.closest("table"), body = table.tBodies[0];
  const column = [...heading.parentNode.children].indexOf(heading);
  const turns = column ? { none: "descending", descending: "ascending", ascending: "none" }
    : { none: "ascending", ascending: "descending", descending: "none" };
  const next = turns[heading.getAttribute("aria-sort")];
  for (const other of heading.parentNode.children) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", next);
  table.classList.toggle("sorted", next !== "none");
  const rows = [...body.rows];
  rows.forEach((row) => { row.dataset.place ??= [...body.rows].indexOf(row); });
  const key = (row) => {
    if (next === "none") return Number(row.dataset.place);
    const cell = row.cells[column];
    return column === 0 ? cell.textContent.trim()
      : "value" in cell.dataset ? Number(cell.dataset.value) : null;
  };
  const sign = next === "descending" ? -1 : 1;
  rows.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
  });
  body.append(...rows);
}
for (const button of all(".sort")) button.addEventListener("click", () => sort(button.parentNode));

/* What stands behind a number. */
const percent = (value, scale = 100) => (scale * value).toFixed(scale === 1 ? 3 : 2);
function show(button) {
  const [own, against, scale, pairing] = data.numbers[Number(button.dataset.number)];
  const cell = button.closest("td"), table = button.closest("table");
  const column = table.tHead.rows[0].cells[cell.cellIndex].textContent.trim();
  const row = cell.parentNode.cells[0].textContent.trim();
  field("records-title").textContent = `${row}, ${column}: ${button.textContent}`;
  const values = own.map(([, seed, value]) => `seed ${seed}: ${percent(value, scale)}`).join(", ");
  field("formula").textContent = against.length
    ? `Mean over seeds of the ${pairing}. This row: ${values}. What it is set against: `
      + against.map(([, seed, value]) => `seed ${seed}: ${percent(value, scale)}`).join(", ") + "."
    : `Mean over seeds. ${values}.`;
  chart(own.map(([number]) => data.records[number]).filter((record) => record.curve));
  const groups = [[own, ""], [against, "baseline, "]];
  field("list").replaceChildren(...groups.flatMap(([from, what]) => from.map(
    ([number, seed]) => told(data.records[number], `${what}seed ${seed}`))));
  field("records").showModal();
}
function told(record, title) {
  const rows = { record: record.name, finished: record.date, device: record.device,
    commit: `${record.commit}${record.clean ? "" : " (with uncommitted changes)"}`,
    "seconds per epoch": record.seconds?.toFixed(3), "make it again": record.command };
  const list = element("dl");
  for (const [key, value] of Object.entries(rows)) {
    if (value !== undefined) list.append(element("dt", {}, key), element("dd", {}, String(value)));
  }
  const config = element("pre", { tabindex: "0" }, JSON.stringify(record.config, null, 1));
  return element("details", {}, element("summary", {}, `${title}: ${record.name}`), list, config);
}
for (const button of all(".number")) button.addEventListener("click", () => show(button));
field("close").addEventListener("click", () => field("records").close());
field("records").addEventListener("click", (event) => {
  if (event.target === field("records")) field("records").close();
});

/* The curve over training: mean over the records, a band from the lowest to the highest. */
function chart(records) {
  const place = field("chart");
  place.replaceChildren();
  if (!records.length) return;
  const names = Object.keys(records[0].curve), epochs = records[0].curve[names[0]].length;
  const [w, h, left, top, bottom] = [640, 250, 40, 22, 34];
  const at = (name, e) => records.map((r) => r.curve[name]?.[e]).filter((v) => v !== undefined && v !== null);
  const points = names.flatMap((name) => Array.from({ length: epochs }, (_, e) => at(name, e)).flat());
  const low = Math.max(0, Math.floor(Math.min(...points) * 10) / 10), high = Math.min(1, Math.ceil(Math.max(...points) * 10) / 10);
  const x = (e) => left + (w - left - 12) * (epochs > 1 ? e / (epochs - 1) : 0.5);
  const y = (v) => top + (h - top - bottom) * (1 - (v - low) / (high - low || 1));
  const svg = element("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", tabindex: "0",
    "aria-label": `${data.curve} over epochs; arrow keys read the values` });
  for (let i = 0; i <= 5; i++) {
    const v = low + (high - low) * i / 5;
    svg.append(element("line", { x1: left, x2: w - 12, y1: y(v), y2: y(v), stroke: "currentColor", opacity: 0.12 }),
      element("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, (100 * v).toFixed(0)));
  }
  for (let i = 0; i <= 5 && epochs > 1; i++) {
    const e = Math.round((epochs - 1) * i / 5);
    svg.append(element("text", { x: x(e), y: h - bottom + 16, "text-anchor": "middle" }, String(e + 1)));
  }
  svg.append(element("text", { x: (w + left) / 2, y: h - 4, "text-anchor": "middle" }, "epoch"));
  const legend = element("g", { class: "legend" });
  let along = left;
  names.forEach((name, i) => {
    const colour = COLOURS[i % COLOURS.length], line = [], upper = [], lower = [];
    for (let e = 0; e < epochs; e++) {
      const v = at(name, e);
      if (!v.length) continue;
      line.push(`${x(e)},${y(v.reduce((a, b) => a + b) / v.length)}`);
      upper.push(`${x(e)},${y(Math.max(...v))}`);
      lower.unshift(`${x(e)},${y(Math.min(...v))}`);
    }
    svg.append(element("polygon", { points: [...upper, ...lower].join(" "), fill: colour, opacity: 0.15 }),
      element("polyline", { points: line.join(" "), fill: "none", stroke: colour, "stroke-width": 2,
        "stroke-dasharray": DASHES[i % DASHES.length] }));
    legend.append(element("line", { x1: along, x2: along + 22, y1: 9, y2: 9, stroke: colour, "stroke-width": 2,
      "stroke-dasharray": DASHES[i % DASHES.length] }),
      element("text", { x: along + 27, y: 13 }, name));
    along += 45 + 7 * name.length;
  });
  const cursor = element("line", { y1: top, y2: h - bottom, stroke: "currentColor", opacity: 0.5, visibility: "hidden" });
  const read = element("p", { class: "read", "aria-live": "polite" },
    `${data.curve}, mean and range over ${records.length} record${records.length > 1 ? "s" : ""}; point at the chart to read it`);
  let where = -1;
  const point = (e) => {
    where = Math.max(0, Math.min(epochs - 1, e));
    for (const [key, value] of [["x1", x(where)], ["x2", x(where)], ["visibility", "visible"]]) cursor.setAttribute(key, value);
    read.textContent = `epoch ${where + 1}: ` + names.map((name) => {
      const v = at(name, where);
      return v.length ? `${name} ${percent(v.reduce((a, b) => a + b) / v.length)}` : `${name} none`;
    }).join(", ");
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), inside = (event.clientX - box.left) / box.width * w;
    point(Math.round((inside - left) / (w - left - 12) * (epochs - 1)));
  });
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) { event.preventDefault(); point(where + move); }
  });
  svg.append(cursor, legend);
  place.append(svg, read);
}

filter();
