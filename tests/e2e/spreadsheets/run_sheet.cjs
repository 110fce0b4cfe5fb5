// Runs the Apps Script with stand-ins for Google's services; UrlFetchApp waits for its answer, as Google's does.
// Given: the script and in JSON the token and the calls, [name, ...arguments]. Prints what each call returned.
const { spawnSync } = require("child_process");
const fs = require("fs");
const vm = require("vm");

const [script, told] = process.argv.slice(2);
const { token, calls } = JSON.parse(told);

const requests = [];
const UrlFetchApp = {
  fetch(address, options) {
    requests.push(options.method);
    const headers = { ...options.headers, "Content-Type": options.contentType };
    const given = ["-s", "-X", options.method.toUpperCase(), "-w", "\n%{http_code}", address];
    for (const [name, value] of Object.entries(headers)) {
      given.push("-H", `${name}: ${value}`);
    }
    if (options.payload !== undefined) {
      given.push("--data-binary", "@-");
    }
    const said = spawnSync("curl", given, { input: options.payload || "", encoding: "utf8", maxBuffer: 1 << 26 });
    const end = said.stdout.lastIndexOf("\n");
    return { getContentText: () => said.stdout.slice(0, end), getResponseCode: () => Number(said.stdout.slice(end + 1)) };
  },
};
const kept = new Map(token ? [["FLASKLLM_TOKEN", token]] : []);
const PropertiesService = { getUserProperties: () => ({ getProperty: (name) => kept.get(name) ?? null }) };
const world = vm.createContext({ UrlFetchApp, PropertiesService, Date });
vm.runInContext(fs.readFileSync(script, "utf8"), world);

const results = calls.map(([name, ...given]) => {
  try {
    return { value: world[name](...given) };
  } catch (error) {
    return { message: error.message };
  }
});
console.log(JSON.stringify({ results, requests }));
