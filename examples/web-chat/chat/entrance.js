/** Log in, or make an account where the gateway lets people do that. */
import * as api from "./api.js";
import { el, field, form, show } from "./dom.js";

export function showEntrance(enter) {
  const act = async ({ username, password }) => enter(await api.logIn(username, password));
  show(
    "Log in",
    form(
      { class: "narrow" }, act,
      field("username", "User name or e-mail", { autocomplete: "username", required: true }),
      field("password", "Password", { type: "password", autocomplete: "current-password", required: true }),
      el("p", { class: "actions" }, el("button", {}, "Log in")),
    ),
    el("p", {}, "No account yet? ",
      el("button", { type: "button", class: "link", onclick: () => showRegistration(enter) }, "Make one")),
  );
}

function showRegistration(enter) {
  const act = async ({ username, email, password }) => enter(await api.register(username, email, password));
  show(
    "Make an account",
    form(
      { class: "narrow" }, act,
      field("username", "User name", {
        autocomplete: "username", required: true, help: "3 to 64 letters, digits, dots, hyphens, underscores",
      }),
      field("email", "E-mail", { type: "email", autocomplete: "email", required: true }),
      field("password", "Password", {
        type: "password", autocomplete: "new-password", required: true,
        help: "At least 8 characters, with an upper and a lower letter and a digit",
      }),
      el("p", { class: "actions" }, el("button", {}, "Make the account")),
    ),
    el("p", {}, "You have one? ",
      el("button", { type: "button", class: "link", onclick: () => showEntrance(enter) }, "Log in")),
  );
}
