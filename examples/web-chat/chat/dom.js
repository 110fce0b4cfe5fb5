/** Making elements. Whatever is shown goes in as text: there is no way here from a string to markup. */

/** `el("button", { type: "button", onclick: act }, "Words", another)`; null and false children are left out. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter(isThere));
  return made;
}

function isThere(child) {
  return child !== null && child !== false && child !== undefined;
}

/** Put these in the place of what the page shows, and begin to read there. */
export function show(title, ...children) {
  const heading = el("h1", { tabindex: "-1" }, title);
  document.getElementById("main").replaceChildren(heading, ...children.filter(isThere));
  document.title = `${title} · FlaskLLM`;
  heading.focus();
}

/** Say it to those who do not see the page. */
export function tell(words) {
  document.getElementById("told").textContent = words;
}

/** An input with its label; `id` where a page has two of a name. */
export function field(name, label, { help, id = `f-${name}`, ...attributes } = {}) {
  return el(
    "p", { class: "field" },
    el("label", { for: id }, label),
    el("input", { id, name, "aria-describedby": help ? `h-${id}` : null, ...attributes }),
    help && el("span", { id: `h-${id}`, class: "help" }, help),
  );
}

/** A form that calls `act(values)` instead of loading a page; what is refused is told at its field, or above. */
export function form(attributes, act, ...children) {
  const fault = el("p", { class: "notice bad", role: "alert", hidden: true });
  const made = el("form", { novalidate: true, ...attributes }, fault, ...children);
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = made.querySelector("button:not([type=button])");
    clear(made, fault);
    button.disabled = true;
    try {
      await act(Object.fromEntries(new FormData(made)), made);
    } catch (error) {
      complain(made, fault, error);
    } finally {
      button.disabled = false;
    }
  });
  return made;
}

function clear(made, fault) {
  fault.hidden = true;
  for (const told of made.querySelectorAll(".fault")) told.remove();
  for (const input of made.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.setAttribute("aria-describedby", (input.getAttribute("aria-describedby") ?? "").replace(/e-\S+/, "").trim());
  }
}

function complain(made, fault, error) {
  const left = error.details?.filter(({ field: name, message }) => !mark(made.elements[name], message)) ?? [];
  if (error.details?.length && !left.length) {
    made.querySelector("[aria-invalid]").focus();
    return;
  }
  fault.textContent = error.message;
  fault.hidden = false;
}

function mark(input, message) {
  if (!input?.parentElement) return false;
  const id = `e-${input.id}`;
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", `${id} ${input.getAttribute("aria-describedby") ?? ""}`.trim());
  input.after(el("span", { id, class: "fault" }, message));
  return true;
}

/** A table that is scrolled by itself where it is wide; `rows` are lists of cells: text or elements. */
export function table(label, heads, rows, none) {
  const cells = (row) => row.map((cell, place) => el("td", { class: heads[place].kind }, cell));
  const body = rows.length
    ? rows.map((row) => el("tr", {}, ...cells(row)))
    : [el("tr", {}, el("td", { colspan: heads.length, class: "none" }, none))];
  return el(
    "div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" },
    el(
      "table", {},
      el("thead", {}, el("tr", {}, ...heads.map(({ words, kind }) => el("th", { scope: "col", class: kind }, words)))),
      el("tbody", {}, ...body),
    ),
  );
}

/** A button that copies this text, and says so; where the browser does not let it, that is said. */
export function copyButton(text) {
  return el("button", {
    type: "button",
    onclick: async ({ target }) => {
      try {
        await navigator.clipboard.writeText(text);
        target.textContent = "Copied";
      } catch {
        target.textContent = "Select it and copy it yourself";
      }
    },
  }, "Copy");
}

export function moment(iso) {
  return iso ? el("time", { datetime: iso }, new Date(iso).toLocaleString()) : "never";
}

export function dollars(amount) {
  if (amount === null) return "unknown";
  return `$${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: amount < 1 ? 6 : 2 })}`;
}
