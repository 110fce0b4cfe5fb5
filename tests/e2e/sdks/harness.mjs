// What the programs share: checks by name, each for every model of its kind, one line of JSON for each.
import assert from "node:assert/strict";

export { assert };
export const PLACE = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
export const PIXEL =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
export const IMAGE = `data:image/png;base64,${PIXEL}`;
export const URL = process.env.GATEWAY;
export const TOKEN = process.env.TOKEN;
const checks = [];

export const check = (kind, name, run) => checks.push({ kind, name, run });

export const rejected = async (promise, kind) => {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof kind, `${error}`);
    return error;
  }
  assert.fail(`no ${kind.name}`);
};

export const run = async () => {
  const plan = { once: ["-"], ...JSON.parse(process.argv[2]) };
  for (const { kind, name, run } of checks) {
    for (const model of plan[kind] ?? []) {
      let fault = null;
      try {
        await run(model);
      } catch (error) {
        fault = String(error?.stack ?? error).slice(0, 3000);
      }
      console.log(JSON.stringify({ check: name, model, fault }));
    }
  }
};
