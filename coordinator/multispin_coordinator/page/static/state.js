// What the page knows, with an end to everything, and what it makes of it.

const SECONDS = 300, PASSES = 512, ROUNDS = 1024, ENDED = 64, LOST = 32;
const ROUND_FIELDS = ["request", "round", "kind", "drafted", "accepted", "tokens", "next", "finish", "sentUs", "awayUs",
  "draftUs", "networkUs", "queueUs", "verifyUs", "batchRows", "energyNj"];

export class State {
  constructor() { this.clear(); }

  clear() {
    this.begin = null;
    this.nowUs = 0;
    this.agents = new Map();
    this.requests = new Map();
    this.seconds = new Map();
    this.passes = [];
    this.rounds = [];
  }

  take(event) {
    if (event.begin) { this.clear(); this.begin = event.begin; }
    this.nowUs = event.now_us;
    for (const row of event.agents ?? []) this.agents.set(row.key, row);
    for (const row of event.requests ?? []) this.requests.set(row.key, row);
    for (const second of event.seconds ?? []) this.seconds.set(second.number, second);
    for (const [startedUs, verifyUs, rows, energyNj, parts] of event.passes ?? []) {
      this.passes.push({ startedUs, verifyUs, rows, energyNj, parts });
    }
    for (const values of event.rounds ?? []) {
      this.rounds.push(Object.fromEntries(ROUND_FIELDS.map((name, index) => [name, values[index]])));
    }
    this.passes.splice(0, this.passes.length - PASSES);
    this.rounds.splice(0, this.rounds.length - ROUNDS);
    forget(this.seconds, () => true, SECONDS);
    forget(this.requests, (row) => row.ended_us !== null, ENDED);
    forget(this.agents, (row) => row.state === "lost", LOST);
  }

  // The seconds up to the last whole one, oldest first, with nothing where nothing happened.
  series(count) {
    const last = Math.floor(this.nowUs / 1e6) - 1;
    const numbers = Array.from({ length: Math.max(0, Math.min(count, last + 1)) }, (_, index) => index);
    return numbers.map((index) => {
      const number = last - numbers.length + 1 + index;
      return this.seconds.get(number) ?? { number, num_cooperative: 0, num_alone: 0, num_drafted: 0, num_accepted: 0,
        num_passes: 0, num_rows: 0, busy_us: 0, energy_nj: 0, num_unmetered: 0 };
    });
  }

  roundsOf(key) { return this.rounds.filter((round) => round.request === key); }

  agentOf(key) {
    const agent = this.requests.get(key)?.agent;
    return agent == null ? null : this.agents.get(agent) ?? null;
  }

  newest() {
    const rows = [...this.requests.values()];
    return rows.filter((row) => row.ended_us === null).at(-1) ?? rows.at(-1) ?? null;
  }
}

// Joules a token of the coordinator's passes; null where a pass was not metered or no token came.
export function joulesPerToken(second) {
  const tokens = second.num_cooperative + second.num_alone;
  return tokens && second.num_passes && !second.num_unmetered ? second.energy_nj / 1e9 / tokens : null;
}

export function sum(rows, name) { return rows.reduce((total, row) => total + row[name], 0); }

function forget(map, isOver, most) {
  const over = [...map.keys()].filter((key) => isOver(map.get(key))).sort((a, b) => a - b);
  for (const key of over.slice(0, Math.max(0, over.length - most))) map.delete(key);
}
