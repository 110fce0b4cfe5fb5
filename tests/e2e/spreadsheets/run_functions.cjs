// Runs the add-in's functions with stand-ins for Excel's two objects; fetch is real, and counted.
// Given: functions.js and in JSON the token and the calls, [name, ...arguments]. Prints what each cell shows.
const fs = require("fs");
const vm = require("vm");

const [script, told] = process.argv.slice(2);
const { token, calls } = JSON.parse(told);

const functions = new Map();
const requests = [];

class CellError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const world = vm.createContext({
  setTimeout,
  CustomFunctions: {
    associate: (id, run) => functions.set(id, run),
    Error: CellError,
    ErrorCode: { invalidValue: "#VALUE!", notAvailable: "#N/A" },
  },
  OfficeRuntime: { storage: { getItem: async (key) => (key === "flaskllm.token" && token ? token : null) } },
  fetch: (address, options) => {
    requests.push([options.method, options.body ? JSON.parse(options.body).rows.length : 0]);
    return fetch(address, options);
  },
});
vm.runInContext(fs.readFileSync(script, "utf8"), world);

const shown = calls.map(([name, ...given]) =>
  functions.get(name)(...given).then(
    (text) => ({ text }),
    (error) => ({ code: error.code, message: error.message })
  )
);
Promise.all(shown).then((cells) => console.log(JSON.stringify({ ids: [...functions.keys()], cells, requests })));
