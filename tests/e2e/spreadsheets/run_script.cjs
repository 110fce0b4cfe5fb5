// Runs an Office Script's main() on a stand-in for the workbook: a grid in memory. All else, fetch too, is real.
// Given: the script, and in JSON what a user would fill in and the cells of the selected column.
// Prints the column beside it, each value that a cell held on its way, and the error, if it ended with one.
const fs = require("fs");
const ts = require("typescript");
const vm = require("vm");

const [script, told] = process.argv.slice(2);
const { address, token, cells, fill } = JSON.parse(told);

const grid = new Map(cells.map((cell, row) => [`${row},0`, cell]));
const history = [];

class Range {
  constructor(row, column, rows, columns) {
    Object.assign(this, { row, column, rows, columns });
  }
  getColumn(column) {
    return new Range(this.row, this.column + column, this.rows, 1);
  }
  getUsedRange() {
    const used = [...Array(this.rows).keys()].filter((row) => String(grid.get(`${this.row + row},${this.column}`) ?? "") !== "");
    return used.length ? new Range(this.row + used[0], this.column, used[used.length - 1] - used[0] + 1, 1) : undefined;
  }
  getOffsetRange(row, column) {
    return new Range(this.row + row, this.column + column, this.rows, this.columns);
  }
  getCell(row, column) {
    return new Range(this.row + row, this.column + column, 1, 1);
  }
  getValues() {
    return [...Array(this.rows).keys()].map((row) => [grid.get(`${this.row + row},${this.column}`) ?? ""]);
  }
  setValue(value) {
    grid.set(`${this.row},${this.column}`, value);
    history.push([this.row, value]);
  }
  getAddress() {
    return `Sheet1!R${this.row + 1}C${this.column + 1}`;
  }
}

const workbook = { getSelectedRange: () => new Range(0, 0, Math.max(cells.length, 1), 1) };
let text = fs.readFileSync(script, "utf8").replace("https://gateway.example.com", address);
text = text.replace("fl_your_workbook_token", token);
for (const [from, to] of Object.entries(fill || {})) {
  text = text.replace(from, to);
}
const lines = [];
const world = vm.createContext({ fetch, console: { log: (line) => lines.push(line) } });
vm.runInContext(ts.transpile(text, { target: ts.ScriptTarget.ES2019 }), world);

const began = Date.now();
world.main(workbook).then(
  () => tell(""),
  (error) => tell(String(error.message))
);

function tell(error) {
  const answers = cells.map((_, row) => grid.get(`${row},1`) ?? "");
  console.log(JSON.stringify({ answers, history, lines, error, seconds: (Date.now() - began) / 1000 }));
}
