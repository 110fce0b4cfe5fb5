/**
 * FlaskLLM: translates each selected cell.
 *
 * Select the cells and run it: the answers come into the column to the right. Fill in the address and a workbook token
 * below. A workbook token is limited to a few templates and a small daily budget: whoever has the workbook can read it.
 * Scripts can call the gateway from Excel itself, not from Power Automate and not where they are stored in SharePoint.
 */
async function main(workbook: ExcelScript.Workbook): Promise<void> {
  const settings: Settings = {
    address: "https://gateway.example.com",
    token: "fl_your_workbook_token",
    mostDollars: 1,
    rowsAtOnce: 200,
  };
  const language = "de"; // into which language: a code of ISO 639-1
  await fillNextColumn(workbook, settings, { type: "translation", language: language, prompt: (cell) => cell });
}

/** Where the gateway is, the workbook token, what one run may cost, and how many cells go out at once. */
interface Settings {
  address: string;
  token: string;
  mostDollars: number;
  rowsAtOnce: number;
}

// ---- From here on the same in every script of this folder --------------------------------------------------------

/** One row to ask about; `cells` are joined by line feeds. */
interface RowToAsk {
  id: string;
  cells: (string | number | boolean)[];
}

/** One answered row: the same fields of the same types, whether it went well or not. */
interface AnsweredRow {
  id: string;
  status: "ok" | "error" | "pending";
  text: string;
  values: string[];
  error_code: string;
  error_message: string;
  cached: boolean;
  cost: number;
}

interface RangeAnswer {
  rows: AnsweredRow[];
  done: boolean;
  continuation: string;
  cost: number;
}

interface GatewayError {
  error: { code: string; message: string; details: { field: string; message: string }[] };
}

/** What one row is asked for: a type of the gateway, a language where the type needs one, and what each cell becomes. */
interface Task {
  type: string;
  language: string;
  prompt: (cell: string) => string;
}

/**
 * Asks for every filled cell of the first selected column and writes each answer into the column to its right, as it
 * comes. A cell whose text was answered before costs nothing, so the script can be run again at any time.
 */
async function fillNextColumn(workbook: ExcelScript.Workbook, settings: Settings, task: Task): Promise<void> {
  const source = workbook.getSelectedRange().getColumn(0).getUsedRange(true);
  if (!source) {
    throw new Error("Select the cells to work on first: the selection is empty.");
  }
  const target = source.getOffsetRange(0, 1);
  const texts = source.getValues().map((row) => String(row[0]));
  const open: RowToAsk[] = [];
  texts.forEach((text, place) => {
    if (text.trim() !== "") {
      open.push({ id: String(place), cells: [task.prompt(text)] });
      target.getCell(place, 0).setValue("…");
    }
  });
  let finished = 0;
  let spent = 0;
  for (let from = 0; from < open.length; from += settings.rowsAtOnce) {
    let answer = await call(settings, "", {
      rows: open.slice(from, from + settings.rowsAtOnce),
      type: task.type,
      language: task.language === "" ? undefined : task.language,
      confirm: true,
      max_cost: Math.max(0, settings.mostDollars - spent),
      cell_safe: true,
    });
    while (true) {
      for (const row of answer.rows) {
        if (row.status !== "pending") {
          target.getCell(Number(row.id), 0).setValue(row.status === "ok" ? row.text : "⚠ " + row.error_message);
        }
      }
      const ready = finished + answer.rows.filter((row) => row.status !== "pending").length;
      console.log(`${ready} of ${open.length} cells, ${(spent + answer.cost).toFixed(4)} dollars`);
      target.getCell(0, 0).getAddress(); // reading makes Excel show what was written
      if (answer.done) {
        break;
      }
      answer = await call(settings, answer.continuation, null);
    }
    finished += answer.rows.length;
    spent += answer.cost;
  }
}

interface RangeQuestion {
  rows: RowToAsk[];
  type: string;
  language?: string;
  confirm: boolean;
  max_cost: number;
  cell_safe: boolean;
}

/** Sends rows, or asks for the rest of those that were sent. */
async function call(settings: Settings, continuation: string, question: RangeQuestion | null): Promise<RangeAnswer> {
  const path = "/api/v1/range" + (continuation ? "/" + encodeURIComponent(continuation) : "");
  const response = await fetch(settings.address + path, {
    method: question === null ? "GET" : "POST",
    headers: { "X-API-Token": settings.token, "Content-Type": "application/json" },
    body: question === null ? undefined : JSON.stringify(question),
  });
  if (!response.ok) {
    const problem: GatewayError = await response.json();
    const where = problem.error.details.map((detail) => `${detail.field} ${detail.message}`).join("; ");
    throw new Error(`FlaskLLM: ${problem.error.message}${where ? " (" + where + ")" : ""}`);
  }
  const answer: RangeAnswer = await response.json();
  return answer;
}
