// Tiles and the table of agents.

import { joulesPerToken, sum } from "./state.js";
import { colour, number } from "./charts.js";

const NAMES = { power_w: "power", temperature_c: "temperature", link_s: "link", acceptance: "acceptance", length: "length", draft: "draft" };

function node(name, text, kind = "") {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

const percent = (value) => `${Math.round(100 * value)} %`;

export function tiles(place, state) {
  const last = state.series(10), seconds = Math.max(1, last.length);
  const drafted = sum(last, "num_drafted"), passes = sum(last, "num_passes");
  const joules = joulesPerToken({ ...Object.fromEntries(["num_cooperative", "num_alone", "num_passes", "num_unmetered", "energy_nj"].map((name) => [name, sum(last, name)])) });
  const open = [...state.requests.values()].filter((row) => row.ended_us === null).length;
  const here = [...state.agents.values()].filter((row) => row.state !== "lost").length;
  const values = [
    ["goodput", number((sum(last, "num_cooperative") + sum(last, "num_alone")) / seconds), "tokens/s"],
    ["acceptance", drafted ? percent(sum(last, "num_accepted") / drafted) : "–", drafted ? "of drafted" : "nothing drafted"],
    ["rows a pass", passes ? number(sum(last, "num_rows") / passes) : "–", passes ? "" : "no pass"],
    ["engine at work", percent(sum(last, "busy_us") / 1e6 / seconds), "of the time"],
    ["energy", joules === null ? "–" : number(joules), joules === null ? "not known" : `J/token, ${state.begin.energy_label}`],
    ["agents", String(here), "here"],
    ["requests", String(open), "open"],
  ];
  if (place.children.length !== values.length) {
    place.replaceChildren(...values.map(([name]) => { const box = node("div", null); box.append(node("dt", name), node("dd", "")); return box; }));
  }
  values.forEach(([, value, unit], index) => {
    const cell = place.children[index].lastChild, text = `${value} ${unit}`;
    if (cell.dataset.text === text) return;
    cell.dataset.text = text;
    cell.replaceChildren(value, " ", node("small", unit));
  });
}

const NO_LIMIT = 64; // of the wire

// What the last verdict of an agent lets it draft.
function allowed(agent) {
  if (agent.allowed_length === null) return "";
  if (agent.state === "alone") return "none asked for now";
  const most = agent.allowed_length < NO_LIMIT ? [`at most ${agent.allowed_length}`] : [];
  return [...most, ...(agent.price ? [`price ${agent.price}`] : [])].join(", ");
}

// The cells of an agent: [main text, small text or the name of the field whose reason is missing].
function cells(agent) {
  const known = (field, text, small = "") => (agent[field] === null ? [null, agent.reasons[field] ?? "not known", field] : [text(), small]);
  return [
    [agent.state, agent.num_open === 1 ? "1 request" : `${agent.num_open} requests`],
    agent.draft === null ? [agent.draft_fingerprint, ""] : [agent.draft.split(", ")[0], agent.draft.split(", ").slice(1).join(", ")],
    known("link_s", () => `${number(1000 * agent.link_s)} ms`, agent.draft_s === null ? "" : `draft ${number(1000 * agent.draft_s)} ms/token`),
    known("acceptance", () => percent(agent.acceptance), "of the last 64 drafts"),
    known("length", () => number(agent.length), allowed(agent)),
    known("power_w", () => `${number(agent.power_w)} W`, agent.power_label ?? ""),
    known("temperature_c", () => `${agent.temperature_c.toFixed(0)} °C`, "hottest zone"),
  ];
}

export function agents(table, state) {
  const labels = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent);
  const rows = [...state.agents.values()];
  document.getElementById("no-agents").hidden = rows.length > 0;
  table.hidden = rows.length === 0;
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((agent, index) => {
    const row = body.rows[index] ?? body.insertRow();
    const text = JSON.stringify(agent);
    if (row.dataset.text === text) return;
    row.dataset.text = text;
    const name = node("th", null);
    name.scope = "row";
    name.append(node("span", "", `key ${colour(agent.key)}`), ` ${agent.name}`);
    row.replaceChildren(name, ...cells(agent).map(([main, small], column) => {
      const cell = node("td", null, column === 1 ? "wide" : "");
      cell.dataset.label = labels[column];
      if (main === null) {
        const dash = node("span", "–");
        dash.title = small;
        dash.setAttribute("aria-hidden", "true");
        cell.append(dash, node("span", `not known: ${small}`, "sr"));
      } else {
        cell.append(column === 0 ? node("span", main, `state ${main}`) : main, small ? node("small", small) : "");
      }
      return cell;
    }));
  });
  reasons(rows.filter((agent) => agent.state !== "lost"));
}

function reasons(rows) {
  const byReason = new Map();
  for (const agent of rows) {
    for (const [field, reason] of Object.entries(agent.reasons)) {
      const text = `${NAMES[field] ?? field}: ${reason}`;
      byReason.set(text, [...(byReason.get(text) ?? []), agent.name]);
    }
  }
  const place = document.getElementById("reasons");
  const lines = [...byReason].map(([text, names]) => `${text} (${names.slice(0, 4).join(", ")}${names.length > 4 ? ` and ${names.length - 4} more` : ""})`);
  place.hidden = lines.length === 0;
  if (place.dataset.text === lines.join("\n")) return;
  place.dataset.text = lines.join("\n");
  place.lastElementChild.replaceChildren(...lines.map((line) => node("li", line)));
}
