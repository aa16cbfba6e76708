// Lines, the timeline of passes, and the strip of rounds, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const WINDOW_US = 5e6;

export function element(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function canvas(width, height) { return element("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }); }

function put(place, svg, label) {
  place.replaceChildren(svg);
  place.setAttribute("aria-label", label);
}

// A round number at or above a value: 1, 2 or 5 times a power of ten.
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

export function number(value) {
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(value >= 10 ? 3 : 2)));
}

// lines: [{kind, values}], all of one length; null is a gap.
export function lineChart(place, lines, unit, label) {
  const width = Math.max(280, place.clientWidth), height = 150, left = 40, right = 8, top = 8, bottom = 20;
  const svg = canvas(width, height);
  const most = ceiling(Math.max(0, ...lines.flatMap((line) => line.values.filter((value) => value !== null))));
  const count = Math.max(2, lines[0].values.length);
  const x = (index) => left + (index / (count - 1)) * (width - left - right);
  const y = (value) => height - bottom - (value / most) * (height - top - bottom);
  for (const part of [0, 0.5, 1]) {
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: y(part * most), y2: y(part * most) }));
    svg.append(element("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" }, number(part * most)));
  }
  svg.append(element("text", { x: left, y: height - 4 }, `${count} s ago`));
  svg.append(element("text", { x: width - right, y: height - 4, "text-anchor": "end" }, "now"));
  for (const line of lines) {
    let path = "", drawing = false;
    line.values.forEach((value, index) => {
      if (value !== null) path += `${drawing ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      if (value !== null && !drawing && line.values[index + 1] == null) path += "h2"; // a lone second is seen, too
      drawing = value !== null;
    });
    svg.append(element("path", { class: line.kind, d: path || "M0 0" }));
  }
  put(place, svg, label);
}

export function colour(agent) { return agent === null ? "a0" : `a${1 + ((agent - 1) % 6)}`; }

// Passes of the last seconds in which there were any: time to the right, rows upwards, a colour an agent.
export function timeline(place, state) {
  const width = Math.max(280, place.clientWidth), height = 170, left = 34, top = 8, bottom = 20;
  const last = state.passes.at(-1);
  const svg = canvas(width, height);
  if (!last) { put(place, svg, "no pass yet"); return; }
  const end = last.startedUs + last.verifyUs, begin = end - WINDOW_US;
  const shown = state.passes.filter((one) => one.startedUs + one.verifyUs > begin);
  const most = 2 * Math.ceil(Math.max(...shown.map((one) => one.rows)) / 2);
  const x = (us) => left + (Math.max(0, us - begin) / WINDOW_US) * (width - left - 4);
  const y = (rows) => height - bottom - (rows / most) * (height - top - bottom);
  for (const part of [0, 0.5, 1]) {
    svg.append(element("line", { class: "grid", x1: left, x2: width, y1: y(part * most), y2: y(part * most) }));
    svg.append(element("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" }, number(part * most)));
  }
  for (const one of shown) {
    let rows = 0;
    const from = x(one.startedUs), wide = Math.max(1, x(one.startedUs + one.verifyUs) - from - 0.5);
    for (const [request, count, kind] of one.parts) {
      const agent = state.requests.get(request)?.agent ?? null;
      const tall = Math.max(1, y(rows) - y(rows + count) - 0.5);
      svg.append(element("rect", { class: `${colour(agent)} ${kind}`, x: from.toFixed(1), y: y(rows + count).toFixed(1), width: wide.toFixed(1), height: tall.toFixed(1) }));
      rows += count;
    }
  }
  const ago = (state.nowUs - end) / 1e6;
  svg.append(element("text", { x: left, y: height - 4 }, `${(ago + WINDOW_US / 1e6).toFixed(1)} s ago`));
  svg.append(element("text", { x: width, y: height - 4, "text-anchor": "end" }, ago < 0.6 ? "now" : `${ago.toFixed(1)} s ago`));
  const rows = shown.reduce((total, one) => total + one.rows, 0), busy = shown.reduce((total, one) => total + one.verifyUs, 0);
  put(place, svg, `${shown.length} passes, ${(rows / shown.length).toFixed(1)} rows a pass on average, ` +
    `${(busy / shown.length / 1000).toFixed(1)} ms a pass, at work ${Math.round((100 * busy) / WINDOW_US)} % of the time`);
}

// The parts of a round's time that are known, in order, in microseconds.
export function parts(round) {
  const told = Math.min(round.networkUs ?? 0, round.awayUs ?? 0);
  return [["away", (round.awayUs ?? 0) - told], ["net", told], ["queue", round.queueUs], ["verify", round.verifyUs]];
}

// A column a round, its parts from below.
export function strip(place, rounds, onChoose) {
  const shown = rounds.slice(-80);
  const width = Math.max(280, place.clientWidth), height = 110, left = 58, bottom = 4, top = 8;
  const svg = canvas(width, height);
  if (!shown.length) { put(place, svg, "no round yet"); return; }
  const totals = shown.map((round) => parts(round).reduce((total, [, us]) => total + us, 0));
  const drafts = totals.filter((_, index) => shown[index].kind !== "open"); // a prompt takes as long as it is
  const most = ceiling(Math.max(...(drafts.length ? drafts : totals)) / 1000) * 1000;
  const y = (us) => height - bottom - (us / most) * (height - bottom - top);
  for (const part of [0, 0.5, 1]) {
    svg.append(element("line", { class: "grid", x1: left, x2: width, y1: y(part * most), y2: y(part * most) }));
    svg.append(element("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" }, part ? `${number((part * most) / 1000)} ms` : "0"));
  }
  const clipped = (us) => Math.min(us, most);
  const step = Math.min(24, (width - left) / shown.length);
  shown.forEach((round, index) => {
    let below = 0;
    for (const [kind, us] of parts(round)) {
      if (us <= 0) continue;
      const bar = element("rect", { class: kind, x: (left + index * step + 1).toFixed(1), width: Math.max(1, step - 2).toFixed(1), y: y(clipped(below + us)).toFixed(1), height: Math.max(0.5, y(clipped(below)) - y(clipped(below + us))).toFixed(1) });
      bar.addEventListener("click", () => onChoose(round));
      svg.append(bar);
      below += us;
    }
  });
  const mean = totals.reduce((total, us) => total + us, 0) / totals.length / 1000;
  put(place, svg, `Time of the last ${shown.length} rounds, ${mean.toFixed(1)} ms on average; choose a round in the text above for its parts`);
}
