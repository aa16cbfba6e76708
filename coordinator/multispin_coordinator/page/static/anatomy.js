// One request: its text, coloured by what became of every token, and the time of its rounds.

import { parts, strip } from "./charts.js";

const PARTS = { away: "at the agent", net: "network, both ways, as the agent told lately", queue: "queue at the coordinator", verify: "verification" };
const KINDS = { open: "the first token after the prompt", draft: "a draft", alone: "by the coordinator alone" };
const HIDDEN = "▪";

export class Anatomy {
  constructor(state) {
    this.state = state;
    this.key = null;
    this.chosen = null; // number of a round on the wire
    this.shown = new Set();
    this.text = document.getElementById("text");
    this.text.addEventListener("keydown", (event) => this.onKey(event));
    this.text.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.choose(Number(option.dataset.round));
    });
  }

  show(key) {
    if (key !== this.key) {
      this.key = key;
      this.chosen = null;
      this.shown.clear();
      this.decoder = new TextDecoder();
      this.text.replaceChildren();
      this.text.removeAttribute("aria-activedescendant");
      document.getElementById("round").replaceChildren();
    }
    const rounds = this.state.roundsOf(key), row = this.state.requests.get(key);
    for (const round of rounds) {
      if (!this.shown.has(round.round)) this.append(round);
    }
    document.getElementById("request-facts").textContent = row ? this.facts(row, rounds) : "No request yet.";
    strip(document.getElementById("strip"), rounds, (round) => this.choose(round.round));
    if (this.chosen === null && rounds.length) this.describe(rounds.at(-1), false);
  }

  facts(row, rounds) {
    const agent = this.state.agentOf(row.key), forgotten = row.num_rounds - rounds.length;
    return [
      `${row.num_prompt_tokens} tokens of prompt, ${row.num_tokens} written in ${row.num_rounds} rounds`,
      row.num_drafted ? `${row.num_accepted} of ${row.num_drafted} drafted tokens accepted` : "nothing drafted",
      agent ? `agent ${agent.name}` : "for a user of the coordinator's own",
      row.end === null ? "under way" : `ended: ${row.end}`,
      ...(forgotten > 0 ? [`the first ${forgotten} rounds are no longer kept`] : []),
    ].join("; ") + ".";
  }

  append(round) {
    this.shown.add(round.round);
    const option = document.createElement("span");
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", "false");
    option.id = `round-${round.round}`;
    option.dataset.round = round.round;
    const add = (kind, text) => {
      if (text === "") return;
      const token = document.createElement("span");
      token.className = `tok ${kind}`;
      token.textContent = text;
      option.append(token);
    };
    for (let index = 0; index < round.accepted; index++) add("acc", this.committed(round.tokens?.[index]));
    for (let index = round.accepted; index < round.drafted; index++) {
      add("rej", round.tokens === null ? HIDDEN : new TextDecoder().decode(bytes(round.tokens[index])).replaceAll("\n", "⏎"));
    }
    add(outcome(round), this.committed(round.next));
    if (round.finish) add("own", round.finish === 1 ? "⏹" : "…");
    option.append(" ".slice(1));
    const isAtEnd = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < 40;
    this.text.append(option);
    if (isAtEnd) this.text.scrollTop = this.text.scrollHeight;
  }

  // Characters that are whole now: a token may end within one.
  committed(token) { return token == null ? HIDDEN : this.decoder.decode(bytes(token), { stream: true }); }

  onKey(event) {
    const options = [...this.text.children], now = options.findIndex((option) => Number(option.dataset.round) === this.chosen);
    const to = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now < 0 ? options.length - 1 : now - 1, ArrowUp: now < 0 ? options.length - 1 : now - 1, Home: 0, End: options.length - 1 }[event.key];
    if (to === undefined || !options.length) return;
    event.preventDefault();
    this.choose(Number(options[Math.min(options.length - 1, Math.max(0, to))].dataset.round));
  }

  choose(number) {
    const round = this.state.roundsOf(this.key).find((each) => each.round === number);
    if (!round) return;
    this.chosen = number;
    for (const option of this.text.children) option.setAttribute("aria-selected", String(Number(option.dataset.round) === number));
    this.text.setAttribute("aria-activedescendant", `round-${number}`);
    document.getElementById(`round-${number}`).scrollIntoView({ block: "nearest" });
    this.describe(round, true);
  }

  describe(round, isChosen) {
    const place = document.getElementById("round");
    place.setAttribute("aria-live", isChosen ? "polite" : "off"); // only what was asked for is read out
    const rows = parts(round).filter(([name]) => round.awayUs !== null || (name !== "away" && name !== "net"));
    const all = rows.reduce((total, [, us]) => total + us, 0);
    const told = round.draftUs === null ? "" : `; at ${(round.draftUs / round.drafted / 1000).toFixed(1)} ms a token, as the agent told lately, its drafting took ${(round.draftUs / 1000).toFixed(1)} ms, of which a part may have been ahead of the verdict before`;
    const table = document.createElement("table"), body = document.createElement("tbody");
    table.createCaption().textContent = `Round ${round.round}${isChosen ? "" : " (the last)"}: ${KINDS[round.kind]}` +
      (round.drafted ? `, ${round.accepted} of ${round.drafted} accepted, then ${{ cor: "a correction", bon: "a bonus token", own: "the target's token" }[outcome(round)]}` : "");
    for (const [name, us] of [...rows.map(([name, us]) => [PARTS[name], us]), ["all", all]]) {
      const row = body.insertRow(), head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.append(head);
      row.insertCell().textContent = `${(us / 1000).toFixed(1)} ms`;
    }
    const energy = round.energyNj === null ? "joules not known" : `${(round.energyNj / 1e9).toPrecision(3)} J, ${this.state.begin?.energy_label}`;
    const note = document.createElement("p");
    note.className = "legend";
    note.textContent = `${round.batchRows} rows in its pass; ${energy}${told}.`;
    table.append(body);
    place.replaceChildren(table, note);
  }
}

function outcome(round) {
  if (round.drafted === 0) return "own";
  return round.accepted === round.drafted ? "bon" : "cor";
}

function bytes(token) { return Uint8Array.from(token, (character) => character.charCodeAt(0)); }
