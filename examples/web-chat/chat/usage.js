/** What one has used: in all, by day and by model, over the last 30 days. */
import * as api from "./api.js";
import { dollars, el, show, table } from "./dom.js";

const DAYS = 30;
const SUMS = [
  { words: "Requests", kind: "number" }, { words: "Tokens", kind: "number" }, { words: "Cost", kind: "number" },
];

export async function usagePage() {
  const since = new Date(Date.now() - (DAYS - 1) * 86_400_000).toISOString().slice(0, 10);
  const [byDay, byModel] = await Promise.all(
    ["day", "model"].map((group) => api.call(`/api/usage?from=${since}&group_by=${group}`).then(({ data }) => data)),
  );
  const days = byDay.series.toSorted((one, other) => other.day.localeCompare(one.day));
  const most = Math.max(1, ...days.map((day) => day.requests));
  return () => show(
    "Your usage",
    el("p", {}, `The last ${DAYS} days. Days are those of ${byDay.timezone}.`),
    totals(byDay),
    el("h2", {}, "By day"),
    table("Usage by day", [{ words: "Day" }, { words: "" }, ...SUMS], days.map((day) =>
      [day.day, el("meter", { max: most, value: day.requests, "aria-label": `Requests on ${day.day}` }), ...sums(day)]),
    "Nothing yet."),
    el("h2", {}, "By model"),
    table("Usage by model", [{ words: "Model" }, ...SUMS], byModel.series.map((one) => [one.model, ...sums(one)]),
      "Nothing yet."),
  );
}

function totals(usage) {
  const told = [["Requests", usage.requests], ["Errors", usage.errors], ["Tokens", usage.total_tokens]];
  return el("dl", { class: "totals" },
    ...told.map(([words, count]) => el("div", {}, el("dt", {}, words), el("dd", {}, count.toLocaleString("en")))),
    el("div", {}, el("dt", {}, "Cost"), el("dd", {}, dollars(usage.cost))));
}

function sums({ requests, total_tokens: tokens, cost }) {
  return [requests.toLocaleString("en"), tokens.toLocaleString("en"), dollars(cost)];
}
