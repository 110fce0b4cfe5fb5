/** One's own API tokens: made, shown once, revoked. */
import * as api from "./api.js";
import { copyButton, dollars, el, field, form, moment, show, table, tell } from "./dom.js";

const HEADS = [
  { words: "Name" }, { words: "Token" }, { words: "May" }, { words: "Budget", kind: "number" }, { words: "Last used" },
  { words: "Ends" }, { words: "" },
];
const GRANTED_ONLY = ["external", "admin"];
const DAY_MS = 86_400_000;

/** `made`: a new token, to be shown this once. */
export async function tokensPage(user, _id, made = null) {
  const tokens = [];
  let after = "";
  do {
    const page = await api.call(`/api/tokens?limit=200${after}`);
    tokens.push(...page.data);
    after = page.next ? `&after=${encodeURIComponent(page.next)}` : null;
  } while (after);
  const again = async (fresh) => (await tokensPage(user, "", fresh))();
  return () => {
    show(
      "Your tokens",
      el("p", {}, "A token lets a program speak in your name. It is shown once, when it is made."),
      made && secret(made),
      table("Tokens", HEADS, tokens.map((token) => row(token, again)), "No tokens yet."),
      el("h2", {}, "A new token"),
      newToken(user, again),
    );
    if (made) tell("The token is made. Copy it now.");
  };
}

function secret({ name, token }) {
  return el(
    "div", { class: "notice good" },
    el("p", {}, `The token “${name}” is made. This is the only time that it is shown:`),
    el("p", { class: "secret" }, el("code", { id: "secret" }, token), copyButton(token)),
  );
}

function row(token, again) {
  const isOver = token.revoked_at !== null || (token.expires_at !== null && new Date(token.expires_at) < new Date());
  const revoke = async () => {
    if (!window.confirm(`Revoke “${token.name}”? What uses it stops at once.`)) return;
    await api.call(`/api/tokens/${encodeURIComponent(token.id)}`, { method: "DELETE" });
    await again();
    tell("The token is revoked.");
  };
  return [
    token.name,
    el("code", {}, `${token.prefix}…${token.last4}`),
    token.scopes.join(", "),
    token.budget ? `${dollars(token.budget.amount)} ${token.budget.period}` : "yours",
    moment(token.last_used_at),
    token.revoked_at ? "revoked" : moment(token.expires_at),
    isOver ? "" : el("button", {
      type: "button", class: "danger", "aria-label": `Revoke ${token.name}`,
      onclick: () => revoke().catch((error) => window.alert(error.message)),
    }, "Revoke"),
  ];
}

function newToken(user, again) {
  const act = async ({ name, days, amount }, made) => {
    const scopes = [...made.querySelectorAll("input[name=scopes]:checked")].map((box) => box.value);
    const body = { name };
    if (scopes.length) body.scopes = scopes;
    if (days) body.expires_at = new Date(Date.now() + Number(days) * DAY_MS).toISOString();
    if (amount) body.budget = { amount: Number(amount), period: "month" };
    const { data } = await api.call("/api/tokens", { method: "POST", body });
    await again(data);
  };
  const scopes = user.scopes.filter((scope) => !GRANTED_ONLY.includes(scope));
  return form(
    { class: "narrow" }, act,
    field("name", "Name", { required: true, autocomplete: "off", help: "What it is for" }),
    el("fieldset", {}, el("legend", {}, "It may"), ...scopes.map((scope) =>
      el("label", { class: "box" }, el("input", { type: "checkbox", name: "scopes", value: scope, checked: true }), scope))),
    el("p", { class: "field" }, el("label", { for: "f-days" }, "It ends in"), el("select", { id: "f-days", name: "days" },
      el("option", { value: "30" }, "30 days"), el("option", { value: "90" }, "90 days"),
      el("option", { value: "365" }, "a year"), el("option", { value: "" }, "never"))),
    field("amount", "US dollars a month", { inputmode: "decimal", autocomplete: "off", help: "Empty: only your own budget" }),
    el("p", { class: "actions" }, el("button", {}, "Make the token")),
  );
}
