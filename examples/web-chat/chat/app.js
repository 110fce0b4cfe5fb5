/** Which page is shown: by the part of the address behind the #, and by whether somebody is logged in. */
import * as api from "./api.js";
import { accountPage } from "./account.js";
import { chatPage } from "./conversations.js";
import { el, show, tell } from "./dom.js";
import { showEntrance } from "./entrance.js";
import { tokensPage } from "./tokens.js";
import { usagePage } from "./usage.js";

const PAGES = { chat: chatPage, tokens: tokensPage, usage: usagePage, account: accountPage };

let user = null;
let leavePage = () => {};
let turns = 0;

/**
 * `#/chat/<id>` → the chat's page with that id. A page is asked for, which may take a while, and gives the function that
 * draws it: by then somebody may have gone on to another.
 */
async function route() {
  const turn = ++turns;
  leavePage();
  leavePage = () => {};
  dress();
  if (user === null) {
    showEntrance(enter);
    return;
  }
  try {
    const [name, id = ""] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
    const draw = await (PAGES[name] ?? PAGES.chat)(user, id);
    if (turn === turns) leavePage = draw() ?? leavePage;
  } catch (error) {
    if (turn === turns) show("That did not work", el("p", { class: "notice bad", role: "alert" }, error.message));
  }
}

/** The column on top: there for who is logged in. */
function dress() {
  document.getElementById("nav").hidden = user === null;
  document.getElementById("leave").hidden = user === null;
  document.getElementById("who").textContent = user?.username ?? "";
  const name = location.hash.split("/")[1] || "chat";
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function enter(found) {
  user = found;
  route();
}

/** Nothing of whoever was here stays in the page, nor in its address. */
function leave(words) {
  user = null;
  history.replaceState(null, "", location.pathname);
  route();
  tell(words);
}

document.getElementById("log-out").addEventListener("click", async () => {
  leavePage();
  await api.logOut();
  leave("You have logged out.");
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part behind the # names the page
  document.getElementById("main").focus();
});
api.whenEnded(() => leave("Your session is over. Log in again."));
window.addEventListener("hashchange", route);

async function begin() {
  try {
    enter(await api.resume());
  } catch (error) {
    show("The gateway does not answer", el("p", {}, error.message),
      el("p", {}, el("button", { type: "button", onclick: begin }, "Try again")));
  }
}

begin();
