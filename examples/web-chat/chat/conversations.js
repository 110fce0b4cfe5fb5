/** The chat: one's conversations, and one of them with its answers as they come. */
import * as api from "./api.js";
import { dollars, el, show, tell } from "./dom.js";

const PER_PAGE = 30;
const TITLE = 80; // characters of the first message that become it
const NEAR_THE_END = 120; // pixels
const MODEL = "flaskllm.model"; // which model was chosen last: no secret, so it may stay

export async function chatPage(user, id) {
  const [conversation, models] = await Promise.all([
    id ? api.call(`/llm/conversations/${encodeURIComponent(id)}`).then(({ data }) => data) : null,
    namesOfModels(),
  ]);
  return () => {
    const view = new ChatView(conversation, models);
    show(conversation?.title ?? "New conversation", view.element);
    view.follow(true);
    if (models === null) view.complain(waitingWords(user));
    view.list.fill();
    if (window.matchMedia("(pointer: fine)").matches) view.input.focus(); // a phone would open its keyboard
    return () => view.stop();
  };
}

function waitingWords({ username }) {
  return `The account ${username} may not ask models yet: an administrator has to approve it, or give it the scope chat.`;
}

/** What this account may ask; null where it may ask nothing. */
async function namesOfModels() {
  try {
    return (await api.call("/v1/models")).data.map((model) => model.id);
  } catch (error) {
    if (error.status === 403) return null;
    throw error;
  }
}

class ChatView {
  constructor(conversation, models) {
    this.id = conversation?.id ?? null;
    this.title = conversation?.title ?? "";
    this.doings = this.makeDoings();
    this.list = new ConversationList(this.id);
    this.messages = el("ol", {});
    this.log = el("div", { class: "log", role: "log", "aria-label": "Messages", tabindex: "0" }, this.messages);
    for (const { role, content, interrupted } of conversation?.messages ?? []) this.add(role, content, interrupted);
    this.fault = el("p", { class: "notice bad", role: "alert", hidden: true });
    this.input = el("textarea", { id: "message", rows: "3", required: true, onkeydown: (event) => this.typed(event) });
    this.model = modelChoice(models ?? []);
    this.send = el("button", {}, "Send");
    this.halt = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.stop() }, "Stop");
    this.element = el(
      "div", { class: "chat" },
      this.list.element,
      el(
        "section", { class: "talk", "aria-label": "Conversation" },
        this.doings, this.log, this.fault,
        el(
          "form", { class: "composer", onsubmit: (event) => { event.preventDefault(); this.say(); } },
          el("label", { for: "message" }, "Your message"),
          this.input,
          el("div", { class: "actions" },
            el("label", { for: "model", class: "beside" }, "Model"), this.model, this.send, this.halt),
        ),
      ),
    );
  }

  /** Enter sends, Shift+Enter begins a line; not in the middle of composing a character. */
  typed(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.say();
  }

  add(role, content, interrupted = false) {
    const text = el("div", { class: "text" }, content);
    const who = role === "user" ? "You" : "Answer";
    this.messages.append(
      el("li", { class: role }, el("p", { class: "by" }, interrupted ? `${who}, broken off` : who), text),
    );
    return text;
  }

  /** Stay at the end as it grows, unless somebody has gone back to read. */
  follow(always = false) {
    const { scrollHeight, scrollTop, clientHeight } = this.log;
    if (always || scrollHeight - scrollTop - clientHeight < NEAR_THE_END) this.log.scrollTop = scrollHeight;
  }

  complain(words) {
    this.fault.textContent = words;
    this.fault.hidden = !words;
  }

  async say() {
    const message = this.input.value;
    if (!message.trim() || this.abort) return;
    this.complain("");
    this.add("user", message);
    this.input.value = "";
    this.busy(true);
    const answer = this.add("assistant", "");
    this.follow(true);
    try {
      const done = await this.ask(message, answer);
      answer.previousSibling.textContent = `Answer of ${done.model}, ${dollars(done.cost)}`;
      tell("The answer is there.");
      if (this.id === null) this.begun(done.conversation_id, message);
      this.list.fill();
    } catch (error) {
      this.failed(error, message, answer);
    } finally {
      this.busy(false);
    }
  }

  /** What came of it; the answer grows as it comes. */
  async ask(message, answer) {
    this.abort = new AbortController();
    let done = null;
    await api.stream("/llm/chat", {
      method: "POST",
      signal: this.abort.signal,
      body: { message, stream: true, conversation_id: this.id, model: this.model.value || null },
      onEvent: (name, data) => {
        if (name === "done") done = data;
        if (name !== "delta") return;
        answer.append(data.text);
        this.follow();
      },
    });
    if (done === null) throw new api.ApiError("The answer broke off.");
    return done;
  }

  /** Nothing of a question is kept whose answer failed: it is given back, to be sent again. */
  failed(error, message, answer) {
    if (this.abort.signal.aborted) {
      answer.previousSibling.textContent = "Answer, broken off";
      tell("Stopped.");
      return;
    }
    answer.closest("li").previousSibling.remove();
    answer.closest("li").remove();
    if (!this.input.value) this.input.value = message;
    this.complain(error.message);
  }

  /** From now on the conversation has an address, without the page being built anew. */
  begun(id, message) {
    this.id = this.list.current = id;
    history.replaceState(null, "", `#/chat/${encodeURIComponent(id)}`);
    this.entitle(message.slice(0, TITLE));
    this.doings.hidden = false;
  }

  entitle(title) {
    this.title = document.querySelector("h1").textContent = title;
    document.title = `${title} · FlaskLLM`;
  }

  stop() {
    this.abort?.abort();
  }

  busy(is) {
    this.log.setAttribute("aria-busy", is);
    this.send.disabled = is;
    this.halt.hidden = !is;
    if (!is) this.abort = null;
    if (is) tell("Waiting for the answer.");
  }

  /** There once the conversation has begun. */
  makeDoings() {
    const path = () => `/llm/conversations/${encodeURIComponent(this.id)}`;
    const rename = async () => {
      const title = window.prompt("A new title", this.title);
      if (!title?.trim()) return;
      await api.call(path(), { method: "PATCH", body: { title } });
      this.entitle(title);
      this.list.fill();
    };
    const remove = async () => {
      if (!window.confirm(`Delete “${this.title}” for good?`)) return;
      await api.call(path(), { method: "DELETE" });
      location.hash = "#/chat";
    };
    const quietly = (act) => () => act().catch((error) => this.complain(error.message));
    return el(
      "p", { class: "doings", hidden: this.id === null },
      el("button", { type: "button", class: "link", onclick: quietly(rename) }, "Rename"),
      el("button", { type: "button", class: "link", onclick: quietly(remove) }, "Delete"),
    );
  }
}

/** The gateway's own choice, or one of these; remembered in this browser. */
function modelChoice(models) {
  const chosen = localStorage.getItem(MODEL) ?? "";
  const option = (value, words) => el("option", { value, selected: value === chosen }, words);
  return el(
    "select", { id: "model", onchange: ({ target }) => localStorage.setItem(MODEL, target.value) },
    option("", "the gateway's choice"),
    ...models.map((name) => option(name, name)),
  );
}

/** One's conversations, the latest first, a page at a time. */
class ConversationList {
  constructor(current) {
    this.current = current;
    this.items = el("ul", {});
    this.more = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.add() }, "More");
    this.element = el(
      "details", { class: "list", open: window.matchMedia("(min-width: 46rem)").matches },
      el("summary", {}, "Conversations"),
      el("p", {}, el("a", { class: "button", href: "#/chat", onclick: afresh }, "New conversation")),
      el("nav", { "aria-label": "Conversations" }, this.items),
      this.more,
    );
  }

  /** From the beginning. */
  async fill() {
    this.next = null;
    await this.add(true);
  }

  async add(anew = false) {
    try {
      const after = this.next ? `&after=${encodeURIComponent(this.next)}` : "";
      const { data, next } = await api.call(`/llm/conversations?limit=${PER_PAGE}${after}`);
      if (anew) this.items.replaceChildren();
      this.items.append(...data.map((one) => this.entry(one)));
      this.next = next;
      this.more.hidden = next === null;
    } catch (error) {
      if (error.status !== 403) tell(error.message);
    }
  }

  entry({ id, title }) {
    const is = id === this.current;
    return el("li", {}, el("a", { href: `#/chat/${encodeURIComponent(id)}`, "aria-current": is ? "page" : null }, title));
  }
}

/** Also where the address is that of a new conversation already: nothing would change, and nothing be shown. */
function afresh() {
  if (location.hash === "#/chat") window.dispatchEvent(new HashChangeEvent("hashchange"));
}
