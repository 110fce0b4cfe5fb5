/**
 * FlaskLLM for Google Sheets: Extensions > Apps Script, paste this file, set the token once by running setToken().
 *
 * Each function takes one cell or a range and asks for a whole range in one request. Google gives a function 30 seconds:
 * what is not ready by then says so in its cell, and is there, at no further cost, when the sheet is calculated again.
 */
const FLASKLLM_ADDRESS = "https://gateway.example.com";
const FLASKLLM_SECONDS = 24;

/** Run this once from the editor. The token stays with your account, not with the sheet. */
function setToken() {
  const token = Browser.inputBox("FlaskLLM", "Workbook token", Browser.Buttons.OK_CANCEL);
  if (token !== "cancel") {
    PropertiesService.getUserProperties().setProperty("FLASKLLM_TOKEN", token.trim());
  }
}

/**
 * Asks a question about each cell.
 * @param {string} prompt What you want to know.
 * @param {string|string[][]} cells A cell or a range that it is about.
 * @return {string|string[][]} The answers, in the range's form.
 * @customfunction
 */
function FLASKLLM_ASK(prompt, cells) {
  return cells === undefined
    ? flaskllmAnswers_(prompt, { type: "custom" }, (cell) => [cell])
    : flaskllmAnswers_(cells, { type: "custom" }, (cell) => [prompt, cell]);
}

/**
 * Sums up each cell.
 * @param {string|string[][]} cells A cell or a range.
 * @param {string=} language Code of the summary's language, such as en or de.
 * @return {string|string[][]} The summaries, in the range's form.
 * @customfunction
 */
function FLASKLLM_SUMMARIZE(cells, language) {
  return flaskllmAnswers_(cells, language ? { type: "summary", language: language } : { type: "summary" }, (cell) => [cell]);
}

/**
 * Translates each cell.
 * @param {string|string[][]} cells A cell or a range.
 * @param {string} language Code of the language to translate into, such as en or de.
 * @return {string|string[][]} The translations, in the range's form.
 * @customfunction
 */
function FLASKLLM_TRANSLATE(cells, language) {
  return flaskllmAnswers_(cells, { type: "translation", language: language }, (cell) => [cell]);
}

/**
 * Gives each cell the label that fits it best.
 * @param {string|string[][]} cells A cell or a range.
 * @param {string|string[][]} labels The labels: a range, or one text with commas.
 * @return {string|string[][]} The labels, in the range's form.
 * @customfunction
 */
function FLASKLLM_CLASSIFY(cells, labels) {
  const known = (Array.isArray(labels) ? labels.flat() : String(labels).split(",")).map((one) => String(one).trim()).filter(Boolean);
  const order = `Which of these labels fits the text best: ${known.join(", ")}? Answer with the label alone.`;
  return flaskllmAnswers_(cells, { type: "custom" }, (cell) => [order, "", cell]);
}

/** The answers to a range, in its form; empty cells stay empty and are not asked about. */
function flaskllmAnswers_(cells, question, toAsk) {
  const began = Date.now();
  const grid = Array.isArray(cells) ? cells : [[cells]];
  const answers = grid.map((row) => row.map(() => ""));
  const rows = [];
  grid.forEach((row, y) =>
    row.forEach((cell, x) => {
      if (String(cell).trim() !== "") {
        rows.push({ id: `${y},${x}`, cells: toAsk(flaskllmPlain_(cell)) });
      }
    })
  );
  if (rows.length > 0) {
    const left = () => Math.max(1, FLASKLLM_SECONDS - (Date.now() - began) / 1000);
    let answer = flaskllmCall_("", { ...question, rows: rows, deadline_s: left(), confirm: true, cell_safe: true });
    while (!answer.done && left() > 2) {
      flaskllmFill_(answers, answer.rows);
      answer = flaskllmCall_(answer.continuation, null);
    }
    flaskllmFill_(answers, answer.rows);
  }
  return Array.isArray(cells) ? answers : answers[0][0];
}

function flaskllmPlain_(cell) {
  return cell instanceof Date ? cell.toISOString() : cell;
}

function flaskllmFill_(answers, rows) {
  for (const row of rows) {
    const [y, x] = row.id.split(",").map(Number);
    answers[y][x] = { ok: row.text, error: "⚠ " + row.error_message, pending: "… calculate again" }[row.status];
  }
}

function flaskllmCall_(continuation, question) {
  const token = PropertiesService.getUserProperties().getProperty("FLASKLLM_TOKEN");
  if (!token) {
    throw new Error("No token yet: run setToken() from Extensions > Apps Script.");
  }
  const path = "/api/v1/range" + (continuation ? "/" + encodeURIComponent(continuation) : "");
  const response = UrlFetchApp.fetch(FLASKLLM_ADDRESS + path, {
    method: question === null ? "get" : "post",
    contentType: "application/json",
    headers: { "X-API-Token": token },
    payload: question === null ? undefined : JSON.stringify(question),
    muteHttpExceptions: true,
  });
  const answer = JSON.parse(response.getContentText());
  if (response.getResponseCode() !== 200) {
    const details = (answer.error.details || []).map((one) => `${one.field} ${one.message}`);
    throw new Error([answer.error.message, ...details].join(" "));
  }
  return answer;
}
