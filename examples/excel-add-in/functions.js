/**
 * FlaskLLM's functions for Excel cells. Calls that come together, as in a column that is filled down, go out as one
 * request, and equal ones are asked once; an answer that was given before comes from the gateway's cache and costs
 * nothing, so recalculating a workbook is safe.
 */
"use strict";

const ADDRESS = "https://gateway.example.com";
const TOKEN_KEY = "flaskllm.token";
const GATHER_MS = 50; // how long the first call of a bunch waits for others
const MOST_ROWS = 200; // in one request
const DEADLINE_S = 20; // of one request; Excel gives a function about a minute

/**
 * Asks a question, about a text if one is given.
 * @customfunction ASK
 * @param {string} prompt What you want to know.
 * @param {any} [text] A cell or a text that it is about.
 * @returns {Promise<string>} The answer.
 */
function ask(prompt, text) {
  return answerOf({ type: "custom" }, text === undefined || text === null ? [prompt] : [prompt, text]);
}

/**
 * Sums up a text.
 * @customfunction SUMMARIZE
 * @param {any} text A cell or a text.
 * @param {string} [language] Code of the summary's language, such as en or de.
 * @returns {Promise<string>} The summary.
 */
function summarize(text, language) {
  return answerOf(withLanguage({ type: "summary" }, language), [text]);
}

/**
 * Translates a text.
 * @customfunction TRANSLATE
 * @param {any} text A cell or a text.
 * @param {string} language Code of the language to translate into, such as en or de.
 * @returns {Promise<string>} The translation.
 */
function translate(text, language) {
  return answerOf(withLanguage({ type: "translation" }, language), [text]);
}

/**
 * Gives a text the label that fits it best.
 * @customfunction CLASSIFY
 * @param {any} text A cell or a text.
 * @param {string[][]} labels The labels: some cells, or {"a","b"}.
 * @returns {Promise<string>} One of the labels.
 */
async function classify(text, labels) {
  const known = labels.flat().map(String).filter((label) => label.trim() !== "");
  const order = `Which of these labels fits the text best: ${known.join(", ")}? Answer with the label alone.`;
  const said = (await answerOf({ type: "custom" }, [order, "", text])).trim();
  const label = known.find((one) => one.toLowerCase() === said.replace(/[.'"]/g, "").trim().toLowerCase());
  return label === undefined ? said : label;
}

/**
 * Takes the value of a field out of a text, such as an order number or a date.
 * @customfunction EXTRACT
 * @param {any} text A cell or a text.
 * @param {string} what What to look for.
 * @returns {Promise<string>} The value, or nothing where the text has none.
 */
async function extract(text, what) {
  const order = `Take this out of the text: ${what}. Answer with the value alone, or with - where the text has none.`;
  const said = (await answerOf({ type: "custom" }, [order, "", text])).trim();
  return said === "-" || said === "'-" ? "" : said;
}

function withLanguage(question, language) {
  return language ? { ...question, language: language } : question;
}

// ---- One request for many cells -------------------------------------------------------------------------------------

/** Bunches that are being gathered: by their question, what each cell asks and who waits for it. */
const gathered = new Map();

/** The answer to one cell; rejects with what Excel shows in the cell. */
function answerOf(question, cells) {
  return new Promise((resolve, reject) => {
    const key = JSON.stringify(question);
    let bunch = gathered.get(key);
    if (bunch === undefined || bunch.length >= MOST_ROWS) {
      bunch = [];
      gathered.set(key, bunch);
      setTimeout(send, GATHER_MS, key, question, bunch);
    }
    bunch.push({ cells: cells.map(plain), resolve: resolve, reject: reject });
  });
}

/** A cell of a data type (a stock, a place) is an object with its plain value in it; an empty cell is an empty text. */
function plain(cell) {
  if (cell !== null && typeof cell === "object") {
    return cell.basicValue === undefined ? JSON.stringify(cell) : cell.basicValue;
  }
  return cell === null || cell === undefined ? "" : cell;
}

async function send(key, question, bunch) {
  if (gathered.get(key) === bunch) {
    gathered.delete(key);
  }
  try {
    const rows = bunch.map((one, place) => ({ id: String(place), cells: one.cells }));
    let answer = await call("", { ...question, rows: rows, deadline_s: DEADLINE_S, confirm: true, cell_safe: true });
    for (;;) {
      answer.rows.filter((row) => row.status !== "pending").forEach((row) => settle(bunch[Number(row.id)], row));
      if (answer.done) {
        return;
      }
      answer = await call(answer.continuation, null);
    }
  } catch (problem) {
    bunch.forEach((one) => one.reject(shown("notAvailable", problem.message)));
  }
}

/** Resolving or rejecting a promise a second time does nothing. */
function settle(waiting, row) {
  if (row.status === "ok") {
    waiting.resolve(row.text);
  } else {
    waiting.reject(shown(row.error_code === "invalid_request" ? "invalidValue" : "notAvailable", row.error_message));
  }
}

async function call(continuation, question) {
  const token = await OfficeRuntime.storage.getItem(TOKEN_KEY);
  if (!token) {
    throw new Error("No token yet: open FlaskLLM on the Home tab and enter a workbook token.");
  }
  const path = "/api/v1/range" + (continuation ? "/" + encodeURIComponent(continuation) : "");
  const response = await fetch(ADDRESS + path, {
    method: question === null ? "GET" : "POST",
    headers: { "X-API-Token": token, "Content-Type": "application/json" },
    body: question === null ? undefined : JSON.stringify(question),
  });
  const answer = await response.json();
  if (!response.ok) {
    const details = (answer.error.details || []).map((one) => `${one.field} ${one.message}`);
    throw new Error([answer.error.message, ...details].join(" "));
  }
  return answer;
}

/** An error as a cell shows it: #N/A or #VALUE!, with the words beside it. */
function shown(code, message) {
  return new CustomFunctions.Error(CustomFunctions.ErrorCode[code], message);
}

CustomFunctions.associate("ASK", ask);
CustomFunctions.associate("SUMMARIZE", summarize);
CustomFunctions.associate("TRANSLATE", translate);
CustomFunctions.associate("CLASSIFY", classify);
CustomFunctions.associate("EXTRACT", extract);
