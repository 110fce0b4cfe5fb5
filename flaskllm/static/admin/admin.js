"use strict";
/* The little that pages need beside htmx; without it everything but copying still works. */

/* What a form asks before it does what cannot be undone; where no script asks, the server does. */
document.addEventListener("submit", (event) => {
  const form = event.target;
  const question = form.querySelector("input[type=hidden][name=question]");
  if (!question) return;
  if (!window.confirm(question.value)) {
    event.preventDefault();
    event.stopImmediatePropagation();
  } else if (!form.querySelector("input[name=confirmed]")) {
    const answer = document.createElement("input");
    Object.assign(answer, {type: "hidden", name: "confirmed", value: "yes"});
    form.append(answer);
  }
}, true);

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // over plain HTTP, and where the person has not allowed it
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  if (await copied(source.textContent)) {
    button.textContent = "Copied";
  } else {
    window.getSelection().selectAllChildren(source);
    button.textContent = "Selected: press Ctrl+C";
  }
});

/* On a phone the list of pages is folded away behind a button; without scripts it just stands there. */
const menu = document.querySelector(".menu");
if (menu) {
  const frame = menu.closest(".frame");
  menu.hidden = false;
  frame.classList.add("foldable");
  menu.addEventListener("click", () => {
    const isOpen = frame.classList.toggle("unfolded");
    menu.setAttribute("aria-expanded", String(isOpen));
  });
}

/* What a page asks every few seconds lengthens nobody's sign-in: only a person does. */
document.addEventListener("htmx:configRequest", (event) => {
  if (!event.detail.triggeringEvent) event.detail.headers["X-Unattended"] = "1";
});

/* A page that htmx has put in place is read from its beginning, as one that was loaded is. */
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id === "main") {
    document.getElementById("main").focus();
    window.scrollTo(0, 0);
  }
});
