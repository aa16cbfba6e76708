// Server-sent events over fetch: EventSource cannot send a key, and a key does not belong in an address.

const RETRY_MS = [500, 1000, 2000, 5000];
const LONGEST = 8 << 20; // characters of one event

// Calls onEvent with every event until the tab is closed; onState with ("live" | "waiting" | "key", message).
export async function follow(address, key, onEvent, onState) {
  for (let failures = 0; ; failures++) {
    let wait = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
    try {
      const headers = { accept: "text/event-stream" };
      if (key()) headers.authorization = `Bearer ${key()}`;
      const reply = await fetch(address, { headers, cache: "no-store", credentials: "omit" });
      if (reply.ok) {
        failures = -1;
        onState("live", "live");
        await read(reply.body.getReader(), onEvent);
        onState("waiting", "the coordinator has ended the stream; asking again");
      } else {
        const message = await reply.json().then((body) => body.error.message, () => reply.statusText);
        onState(reply.status === 401 ? "key" : "waiting", message);
        if (reply.status === 401) await new Promise((done) => addEventListener("key-given", done, { once: true }));
        else wait = RETRY_MS.at(-1);
        if (reply.status === 401) wait = 0;
      }
    } catch (error) {
      onState("waiting", `no answer (${error.message}); asking again`);
    }
    await new Promise((done) => setTimeout(done, wait));
  }
}

async function read(reader, onEvent) {
  const decoder = new TextDecoder();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += decoder.decode(value, { stream: true });
    const events = held.split("\n\n");
    held = events.pop();
    if (held.length > LONGEST) throw new Error("an event is too long");
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (data.length) onEvent(JSON.parse(data.join("\n")));
    }
  }
}
