/** One's own account: what it is, a new e-mail, a new password. */
import * as api from "./api.js";
import { el, field, form, moment, show, tell } from "./dom.js";

export async function accountPage(user) {
  const { data } = await api.call("/api/profile");
  return () => show(
    "Your account",
    el("dl", { class: "facts" },
      el("dt", {}, "User name"), el("dd", {}, data.username),
      el("dt", {}, "E-mail"), el("dd", {}, data.email),
      el("dt", {}, "May"), el("dd", {}, data.scopes.join(", ")),
      el("dt", {}, "Since"), el("dd", {}, moment(data.created_at))),
    el("h2", {}, "Change the e-mail"),
    form(
      { class: "narrow" }, async (body) => {
        await api.call("/api/profile", { method: "PATCH", body });
        (await accountPage(user))();
        tell("The e-mail is changed.");
      },
      field("email", "New e-mail", { type: "email", autocomplete: "email", required: true }),
      field("old_password", "Password", { type: "password", autocomplete: "current-password", required: true }),
      el("p", { class: "actions" }, el("button", {}, "Change it")),
    ),
    el("h2", {}, "Change the password"),
    el("p", {}, "All your sessions end, this one too: log in with the new password. Tokens go on working."),
    form(
      { class: "narrow" }, async (body) => {
        await api.call("/api/profile", { method: "PATCH", body });
        await api.call("/api/profile").catch(() => {}); // the session has ended: led to the entrance
      },
      field("password", "New password", {
        type: "password", autocomplete: "new-password", required: true,
        help: "At least 8 characters, with an upper and a lower letter and a digit",
      }),
      field("old_password", "Old password", { id: "f-now", type: "password", autocomplete: "current-password", required: true }),
      el("p", { class: "actions" }, el("button", {}, "Change it")),
    ),
  );
}
