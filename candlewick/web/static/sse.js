// Server-sent events over fetch: EventSource cannot send a token. Comes back by itself, resumes.

import { Problem, pause, request } from "./api.js";

const FIRST_WAIT_MS = 1000;
const MOST_WAIT_MS = 5000;
const QUIET_MS = 40_000; // The server says something every 15 s, so a silent connection is dead.

/**
 * Follow a stream until aborted.
 *
 * `hear({event, id, data, receivedAt})` gets each event, with the time of its arrival in milliseconds since
 * 1970. `tell(state)` gets `{kind: "connecting"}`, `{kind: "open"}`, or `{kind: "broken", problem, waitMs, retry}`,
 * where `retry()` ends the wait.
 */
export async function follow(path, { signal, hear, tell }) {
  let lastId = "";
  let failures = 0;
  while (!signal.aborted) {
    tell({ kind: "connecting" });
    let problem = new Problem(0, "unreachable", "Connection lost", "");
    const connection = new AbortController();
    const end = () => connection.abort();
    signal.addEventListener("abort", end);
    try {
      const headers = lastId ? { "Last-Event-ID": lastId } : {};
      const response = await request(path, { signal: connection.signal, headers });
      tell({ kind: "open" });
      for await (const event of events(response.body, end)) {
        failures = 0;
        hear(event);
        if (event.id) lastId = event.id; // only now is it known
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem) problem = error;
      else if (error.name !== "AbortError" && !(error instanceof TypeError)) throw error;
    } finally {
      signal.removeEventListener("abort", end);
      end();
    }
    if (signal.aborted) return;
    if (problem.status === 404) failures = 0; // it is well, and has nothing yet
    const backOffMs = Math.min(MOST_WAIT_MS, FIRST_WAIT_MS * 2 ** failures++);
    const waitMs = problem.retryAfterS * 1000 || backOffMs * (0.8 + 0.4 * Math.random());
    const waiting = new AbortController();
    const retry = () => waiting.abort();
    tell({ kind: "broken", problem, waitMs, retry });
    signal.addEventListener("abort", retry);
    addEventListener("online", retry);
    await pause(waitMs, waiting.signal);
    removeEventListener("online", retry);
    signal.removeEventListener("abort", retry);
  }
}

/** The events of a response, one by one; `end` is called where it says nothing for too long. */
async function* events(body, end) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let text = "";
  for (;;) {
    const watchdog = setTimeout(end, QUIET_MS);
    const { value, done } = await reader.read().finally(() => clearTimeout(watchdog));
    if (done) return;
    const receivedAt = performance.timeOrigin + performance.now();
    text += decoder.decode(value, { stream: true });
    const whole = text.split("\n\n");
    text = whole.pop();
    for (const block of whole) {
      const event = read(block);
      if (event.data) yield { ...event, receivedAt };
    }
  }
}

function read(block) {
  const event = { event: "message", id: "", data: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const name = line.slice(0, colon);
    if (colon < 1 || !(name in event)) continue;
    const value = line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    event[name] = name === "data" && event.data ? `${event.data}\n${value}` : value;
  }
  return event;
}
