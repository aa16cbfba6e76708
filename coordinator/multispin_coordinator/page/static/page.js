// The page: events in, figures out, at most once a frame, and not at all while it is paused or hidden.

import { Anatomy } from "./anatomy.js";
import { colour, lineChart, number, timeline } from "./charts.js";
import { follow } from "./stream.js";
import { joulesPerToken, State } from "./state.js";
import { agents, tiles } from "./tables.js";

const at = (id) => document.getElementById(id);
const state = new State();
const anatomy = new Anatomy(state);
const KEY = "multispin-page-key"; // for this tab only
let paused = false, due = false;

function draw() {
  due = false;
  if (paused || document.hidden || !state.begin) return;
  const begin = state.begin, series = state.series(120);
  at("target").textContent = `${begin.target} ${begin.recipe}, ${begin.engine}, ${begin.exact ? "exact" : "not exact"}; policy ${begin.policy}, ${begin.schedule}`;
  tiles(at("tiles"), state);
  const coop = series.map((second) => second.num_cooperative), alone = series.map((second) => second.num_alone);
  const mean = (values) => number(values.reduce((total, value) => total + value, 0) / Math.max(1, values.length));
  lineChart(at("goodput"), [{ kind: "coop", values: coop }, { kind: "alone", values: alone }], "tokens/s",
    `Goodput of the last ${series.length} seconds: ${mean(coop)} tokens a second with agents, ${mean(alone)} of the target alone`);
  energy(begin, series);
  agents(at("agents"), state);
  timeline(at("timeline"), state);
  legend();
  requests();
}

function energy(begin, series) {
  const values = series.map(joulesPerToken), known = values.filter((value) => value !== null);
  at("energy").hidden = begin.energy_label === null;
  at("energy-note").textContent = begin.energy_label === null
    ? `Not known: ${begin.energy_reason}.`
    : `${begin.energy_label}; without the agents' boxes, whose power is in the table below.`;
  const average = known.length ? number(known.reduce((total, value) => total + value, 0) / known.length) : null;
  if (begin.energy_label !== null) lineChart(at("energy"), [{ kind: "energy", values }], "J/token",
    average === null ? "no joules yet" : `${average} joules a token, mean of ${known.length} seconds, ${begin.energy_label}`);
}

function legend() {
  const shown = [...state.agents.values()].filter((row) => row.state !== "lost").slice(0, 12);
  const text = shown.map((row) => row.name).join("|");
  if (at("timeline-legend").dataset.text === text) return;
  at("timeline-legend").dataset.text = text;
  const mark = (kind) => Object.assign(document.createElement("span"), { className: `key ${kind}` });
  at("timeline-legend").replaceChildren(...shown.flatMap((row) => [mark(colour(row.key)), ` ${row.name}`]), mark("a0"), " own users; paler: prompts");
}

function requests() {
  const select = at("request"), newest = state.newest();
  if (document.activeElement !== select) {
    const rows = [...state.requests.values()].reverse();
    const wanted = at("follow").checked && newest ? newest.key : Number(select.value || newest?.key || 0);
    rows.forEach((row, index) => {
      const option = select.options[index] ?? select.appendChild(document.createElement("option"));
      const agent = state.agentOf(row.key);
      const text = `${row.id.slice(0, 8)}, ${agent ? agent.name : "own user"}, ${row.num_tokens} tokens${row.end === null ? ", under way" : ""}`;
      if (option.textContent !== text) option.textContent = text;
      option.value = row.key;
    });
    while (select.options.length > rows.length) select.remove(select.options.length - 1);
    if (state.requests.has(wanted)) select.value = String(wanted);
  }
  at("texts-note").textContent = state.begin.texts_reason === null ? "" : `Tokens are shown as ${"▪"}: ${state.begin.texts_reason}.`;
  if (select.value) anatomy.show(Number(select.value));
}

function redraw() {
  if (!due) { due = true; requestAnimationFrame(draw); }
}

function tell(kind, message) {
  at("status").className = kind === "live" ? "live" : "bad";
  if (at("status").textContent !== message) at("status").textContent = message;
  at("key-form").hidden = kind !== "key";
}

at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  at("pause").textContent = paused ? "Go on" : "Pause";
  redraw();
});
at("request").addEventListener("change", () => { at("follow").checked = false; anatomy.show(Number(at("request").value)); });
at("follow").addEventListener("change", redraw);
at("rejected").addEventListener("change", () => at("text").classList.toggle("hide-rejected", !at("rejected").checked));
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value.trim());
  at("key").value = "";
  dispatchEvent(new Event("key-given"));
});
addEventListener("resize", redraw);
document.addEventListener("visibilitychange", redraw);

follow("/page/events", () => sessionStorage.getItem(KEY), (event) => { state.take(event); redraw(); }, tell);
