// Asking the server: with the token, and with errors that can be shown as they are.

import { askForToken, authorization, currentToken } from "./token.js";

/** An answer that is not the one that was asked for: RFC 9457, or nobody answered (status 0). */
export class Problem extends Error {
  constructor(status, kind, title, detail, retryAfterS = 0) {
    super(detail ? `${title}: ${detail}` : title);
    this.status = status;
    this.kind = kind;
    this.retryAfterS = retryAfterS;
  }
}

/** Ask for a path; resolves with a response that is good, after a token was given where one is wanted. */
export async function request(path, { signal, headers = {} } = {}) {
  for (;;) {
    const token = currentToken();
    let response;
    try {
      response = await fetch(path, { signal, headers: { ...headers, ...authorization() }, cache: "no-cache" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem(0, "unreachable", "Connection lost", "");
    }
    if (response.ok) return response;
    if (response.status !== 401) throw await problemOf(response);
    await askForToken(token);
    signal?.throwIfAborted();
  }
}

/** Ask for JSON. */
export async function ask(path, options) {
  const response = await request(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new Problem(0, "unreachable", "Connection lost", "in the middle of an answer");
  }
}

async function problemOf(response) {
  const retryAfterS = Number(response.headers.get("Retry-After")) || 0;
  let told = {};
  try {
    told = await response.json();
  } catch {
    // A proxy in front has words of its own.
  }
  const kind = String(told.type ?? "").replace("/problems/", "");
  return new Problem(
    response.status, kind, told.title ?? `Status ${response.status}`, told.detail ?? "", retryAfterS,
  );
}

/**
 * Ask again and again until aborted, and not while nobody sees the page.
 *
 * `take(answer, problem)` gets either; a problem that says when to come back is obeyed.
 */
export async function poll(path, everyMs, take, signal) {
  while (!signal.aborted) {
    let pauseMs = everyMs;
    if (!document.hidden) {
      try {
        take(await ask(path, { signal }), null);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Problem)) throw error;
        take(null, error);
        pauseMs = Math.max(everyMs, error.retryAfterS * 1000);
      }
    }
    await pause(pauseMs, signal);
  }
}

/** Wait; an abort ends it early. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}
