/**
 * The gateway's public API, as a signed-in person uses it.
 *
 * The access token lives in this module's memory and nowhere else. The refresh token has to outlive a reload, so it lies
 * in sessionStorage: for this tab alone, and gone with it. Each refresh token works once; whoever shows one a second time
 * ends the whole session at the gateway, so there is never more than one refresh under way.
 */
import { GATEWAY } from "./config.js";

const REFRESH = "flaskllm.refresh";
const SHARE_OF_LIFE = 0.9; // of an access token, after which a new one is asked for
const PATIENCE_MS = 5000; // whoever wants to be logged out does not wait longer for a gateway

let access = null;
let renewAt = 0; // milliseconds since 1970
let refreshing = null;
let onEnd = () => {};

/** What the gateway refused: `code` and `details` ([{field, message}]) as docs/api.md has them. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "unreachable", details = [] } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }
}

// -- the session ------------------------------------------------------------------------------------------------------

/** Call this when the session has ended, by itself or by somebody else. */
export function whenEnded(callback) {
  onEnd = callback;
}

export async function logIn(username, password) {
  return keep(await send("/api/auth/login", { method: "POST", body: { username, password } }));
}

export async function register(username, email, password) {
  await send("/api/auth/register", { method: "POST", body: { username, email, password } });
  return logIn(username, password);
}

/** Go on with the session of this tab after a reload; gives the user, or null where there is none. */
export async function resume() {
  if (sessionStorage.getItem(REFRESH) === null) return null;
  try {
    return await refresh();
  } catch (error) {
    if (error.status !== 401) throw error;
    return null;
  }
}

/** The gateway ends the session, and this tab forgets it: also where the gateway cannot be reached. */
export async function logOut() {
  try {
    await signed("/api/auth/logout", { method: "POST", signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch {
    // it is over already, or ends by itself
  } finally {
    forget();
  }
}

function keep({ data }) {
  access = data.access_token;
  renewAt = Date.now() + data.expires_in * 1000 * SHARE_OF_LIFE;
  sessionStorage.setItem(REFRESH, data.refresh_token);
  return data.user;
}

function forget() {
  access = null;
  renewAt = 0;
  sessionStorage.removeItem(REFRESH);
}

/** New tokens for the refresh token; all who need them wait for the same exchange. */
function refresh() {
  refreshing ??= exchange().finally(() => { refreshing = null; });
  return refreshing;
}

async function exchange() {
  const token = sessionStorage.getItem(REFRESH);
  try {
    if (token === null) throw new ApiError("You are not logged in.", { status: 401 });
    return keep(await send("/api/auth/refresh", { method: "POST", body: { refresh_token: token } }));
  } catch (error) {
    if (error.status === 401) forget(); // a gateway that is away for a moment ends no session
    throw error;
  }
}

// -- calls ------------------------------------------------------------------------------------------------------------

/** One call with JSON in and out; `null` where there is no content. Throws ApiError. */
export async function call(path, options = {}) {
  return read(await signed(path, options));
}

/**
 * A streamed call: `onEvent(name, data)` for each server-sent event. Throws ApiError, also for an `error` event, and
 * the signal's AbortError.
 */
export async function stream(path, { onEvent, ...options }) {
  const response = await signed(path, options);
  for await (const [name, data] of eventsOf(response.body)) {
    if (name === "error") throw errorOf(data, response.status);
    onEvent(name, data);
  }
}

/** With the access token: a new one where it is about to expire, and once more where the gateway refuses it. */
async function signed(path, options) {
  try {
    if (Date.now() >= renewAt) await refresh();
    const used = access;
    try {
      return await request(path, { ...options, token: used });
    } catch (error) {
      if (error.status !== 401) throw error;
      if (access === used) await refresh();
      return await request(path, { ...options, token: access });
    }
  } catch (error) {
    if (error.status === 401) {
      forget();
      onEnd();
    }
    throw error;
  }
}

async function send(path, options) {
  return read(await request(path, options));
}

async function request(path, { method = "GET", body, token, signal } = {}) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(GATEWAY + path, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The gateway cannot be reached.");
  }
  if (!response.ok) throw errorOf(await response.json().catch(() => ({})), response.status);
  return response;
}

async function read(response) {
  return response.status === 204 ? null : response.json();
}

/** Every family of paths says `error.message`; `code` and `details` where it has them. */
function errorOf(body, status) {
  const error = body.error ?? {};
  const words = error.message ?? `The gateway answered with status ${status}.`;
  return new ApiError(words, { status, code: error.code, details: error.details ?? [] });
}

/** Server-sent events out of a body, as [name, decoded data]; comments are skipped. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const blocks = (waiting + part.value).split("\n\n");
      waiting = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n");
        const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
        if (field("data") !== undefined) yield [field("event"), JSON.parse(field("data"))];
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops listening hangs up
  }
}
