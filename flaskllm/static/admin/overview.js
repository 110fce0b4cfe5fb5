"use strict";
/* The overview's charts, drawn from its table, and looked at anew every ten seconds while somebody looks. */

const EVERY_MS = 10_000;
const COLUMNS = { requests: 0, errors: 1, input: 2, output: 3, cost: 4, first: 5, half: 6, most: 7 };
const CHARTS = {
  requests: { type: "bar", stacked: true, sets: [["Answered", "answered", "accent"], ["Errors", "errors", "bad"]] },
  cost: { type: "bar", sign: "$", sets: [["Dollars", "cost", "accent"]] },
  tokens: { type: "bar", stacked: true, sets: [["In", "input", "accent"], ["Out", "output", "good"]] },
  times: { type: "line", unit: " s", sets: [["First token, half within", "first", "good"], ["Answer, half within", "half", "accent"], ["Answer, 95 % within", "most", "muted"]] },
};

const drawn = {};

function points() {
  const rows = [...document.querySelectorAll("#timeline tr")];
  const column = (name) => rows.map((row) => {
    const text = row.querySelectorAll("td")[COLUMNS[name]].dataset.number;
    return text === "" ? null : Number(text);
  });
  const held = Object.fromEntries(Object.keys(COLUMNS).map((name) => [name, column(name)]));
  held.answered = held.requests.map((all, place) => all - held.errors[place]);
  for (const name of ["first", "half", "most"]) held[name] = held[name].map((ms) => ms === null ? null : ms / 1000);
  held.labels = rows.map((row) => row.querySelector("th").textContent);
  return held;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/* In the colours of the page's scheme as it is now. */
function dressed({ data, options }, sets) {
  data.datasets.forEach((set, place) => {
    set.backgroundColor = set.borderColor = colour(sets[place][2]);
  });
  for (const scale of Object.values(options.scales)) {
    scale.ticks.color = colour("muted");
    scale.grid.color = colour("line");
  }
  options.plugins.legend.labels.color = colour("text");
}

function draw(name, { type, stacked = false, sign = "", unit = "", sets }, held) {
  const wanted = {
    type,
    data: {
      labels: held.labels,
      datasets: sets.map(([label, column]) => ({
        label, data: held[column], borderWidth: type === "line" ? 2 : 0, pointRadius: held.labels.length > 1 ? 0 : 3, pointHitRadius: 12, cubicInterpolationMode: "monotone", spanGaps: true, maxBarThickness: 32,
      })),
    },
    options: {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: { stacked, grid: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 16 } },
        y: { stacked, beginAtZero: true, grid: {}, border: { display: false }, ticks: { maxTicksLimit: 5, precision: ["requests", "tokens"].includes(name) ? 0 : undefined, callback: (value) => `${sign}${Number(value).toLocaleString("en", { notation: "compact", maximumSignificantDigits: 3 })}${unit}` } },
      },
      plugins: { legend: { display: sets.length > 1, position: "bottom", align: "start", labels: { boxWidth: 10, boxHeight: 10 } } },
    },
  };
  dressed(wanted, sets);
  drawn[name] = new Chart(document.getElementById(`chart-${name}`), wanted);
}

function dress() {
  for (const [name, chart] of Object.entries(drawn)) {
    dressed(chart, CHARTS[name].sets);
    chart.update("none");
  }
}

function renew() {
  const held = points();
  for (const [name, chart] of Object.entries(drawn)) {
    chart.data.labels = held.labels;
    chart.data.datasets.forEach((set, place) => { set.data = held[CHARTS[name].sets[place][1]]; });
    chart.update("none");
  }
}

let looked = Date.now();

async function lookAgain() {
  if (document.hidden || Date.now() - looked < EVERY_MS) return;
  looked = Date.now();
  if (document.getElementById("figures")) htmx.trigger("#figures", "renew");
  else await awaitFirstCall();
}

/* A new gateway shows what to do first, until something was called. */
async function awaitFirstCall() {
  const answer = await fetch(window.location.href, { headers: { "X-Unattended": "1" } }).catch(() => null);
  if (answer && answer.ok && (await answer.text()).includes('id="figures"')) window.location.reload();
}

const charts = document.querySelector(".charts");
if (charts) {
  charts.hidden = false;
  for (const [name, wanted] of Object.entries(CHARTS)) draw(name, wanted, points());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress);
  document.addEventListener("htmx:afterSettle", renew);
}
setInterval(lookAgain, 1000);
document.addEventListener("visibilitychange", lookAgain);
