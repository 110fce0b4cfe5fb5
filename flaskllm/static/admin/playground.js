"use strict";
/* The playground's answers, frame by frame. Whatever a model says is put in as text and never as markup. Without this
   file the form gives whole answers. */

const form = document.getElementById("playground");
const message = document.getElementById("f-message");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const announced = document.getElementById("announced");
const MOST_ANNOUNCED = 2000; // characters of an answer that are read out; the rest is read where it stands
const NEAR_THE_END = 40; // pixels: who has scrolled back further is left there
let running = null; // an AbortController while answers come

class Refused extends Error {} // the gateway says no, in its own words

/* -- one column ----------------------------------------------------------------------------------------------------- */

class Pane {
  constructor(place, chooser) {
    this.section = document.getElementById(`pane-${place}`);
    this.name = this.section.querySelector("h2");
    this.turns = this.section.querySelector(".turns");
    this.kept = form.elements[`history.${place}`];
    this.chooser = chooser;
    chooser.addEventListener("change", () => this.show());
    this.show();
  }

  get model() {
    return this.chooser.value;
  }

  get isOpen() {
    return this.model !== "none";
  }

  get history() {
    return JSON.parse(this.kept.value || "[]");
  }

  show() {
    this.section.hidden = !this.isOpen;
    this.name.textContent = this.chooser.selectedOptions[0].textContent;
    this.turns.setAttribute("aria-label", `Said with ${this.name.textContent}`);
  }

  /* A turn at the end; gives where its words go. */
  add(role, text) {
    const turn = document.createElement("li");
    turn.className = `turn ${role}`;
    const who = line("who", role === "user" ? "You" : this.name.textContent);
    const words = document.createElement("div");
    words.className = "words";
    words.textContent = text;
    turn.append(who, words);
    this.turns.append(turn);
    this.turns.scrollTop = this.turns.scrollHeight;
    return words;
  }

  grow(words, piece) {
    const box = this.turns;
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_THE_END;
    words.append(piece); // a string becomes a text node
    if (follows) box.scrollTop = box.scrollHeight;
  }

  /* Ask, and tell here whatever comes of it. Gives whether anything was answered. */
  async ask(text, signal) {
    const asked = [...this.history, { role: "user", content: text }];
    this.section.querySelectorAll(":scope > .figures, :scope > .fault").forEach((old) => old.remove());
    this.add("user", text);
    const words = this.add("assistant", "");
    const answer = { text: "", began: performance.now(), by: null, first: null, usage: null, fault: null };
    words.classList.add("coming");
    try {
      await this.read(answer, words, asked, signal);
    } catch (error) {
      answer.fault = reason(error, signal, answer.text);
    }
    words.classList.remove("coming");
    words.normalize();
    this.end(answer, words);
    if (answer.text) {
      this.kept.value = JSON.stringify([...asked, { role: "assistant", content: answer.text }]);
    }
    return Boolean(answer.text);
  }

  async read(answer, words, asked, signal) {
    const response = await fetch(form.dataset.stream, {
      method: "POST",
      headers: { "Content-Type": "application/json", "HX-Request": "true", "X-CSRF-Token": form.elements.csrf.value },
      body: JSON.stringify(this.question(asked)),
      signal,
    });
    if (!response.ok) throw new Refused(await refusal(response));
    answer.by = response.headers.get("X-FlaskLLM-Provider");
    answer.by = answer.by && `${answer.by}/${response.headers.get("X-FlaskLLM-Model")}`;
    for await (const data of events(response.body)) {
      const frame = JSON.parse(data);
      if (frame.error) throw new Refused(frame.error.message);
      if (frame.usage) answer.usage = frame.usage;
      const delta = frame.choices?.[0]?.delta;
      const piece = delta?.content || delta?.refusal;
      if (!piece) continue;
      answer.first ??= performance.now();
      answer.text += piece;
      this.grow(words, piece);
    }
  }

  question(asked) {
    const system = form.elements.system.value;
    const body = {
      messages: system.trim() ? [{ role: "system", content: system }, ...asked] : asked,
      stream: true,
      stream_options: { include_usage: true },
    };
    if (this.model) body.model = this.model;
    for (const name of ["temperature", "max_tokens"]) {
      const typed = form.elements[name].value.trim();
      if (typed) body[name] = /^-?\d+(\.\d+)?$/.test(typed) ? Number(typed) : typed; // what is no number is told of
    }
    return body;
  }

  end(answer, words) {
    const turn = words.parentElement;
    if (!answer.text) words.remove();
    if (answer.fault) turn.append(line("fault", answer.fault));
    else if (!answer.text) turn.append(line("figures", "It answered with no text."));
    const figures = figuresOf(answer);
    if (figures) turn.append(line("figures", figures));
    this.turns.scrollTop = this.turns.scrollHeight;
    const said = answer.text.slice(0, MOST_ANNOUNCED) + (answer.text.length > MOST_ANNOUNCED ? " …" : "");
    announce(`${this.name.textContent}: ${[said, answer.fault].filter(Boolean).join(" ")}`);
  }
}

function line(name, text) {
  const made = document.createElement("p");
  made.className = name;
  made.textContent = text;
  return made;
}

function announce(text) {
  announced.append(line("", text));
}

function figuresOf({ by, began, first, usage, fault, text }) {
  if (fault && !text) return "";
  const seconds = (until) => `${((until - began) / 1000).toFixed(2)} s`;
  const found = [by];
  if (first) found.push(`first token ${seconds(first)}`);
  found.push(`${seconds(performance.now())} in all`);
  if (usage) {
    found.push(`${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out`);
    found.push(usage.cost == null ? "cost unknown" : `$${dollars(usage.cost)}`);
  }
  return found.filter(Boolean).join(" · ");
}

function dollars(cost) {
  return cost.toFixed(9).replace(/\.?0+$/, "");
}

/* -- the wire ------------------------------------------------------------------------------------------------------- */

/* The data of each event until the last, which says so: a stream that ends without it has broken off. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new TypeError("ended early");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const one of lines) {
      if (!one.startsWith("data: ")) continue;
      if (one === "data: [DONE]") return;
      yield one.slice("data: ".length);
    }
  }
}

async function refusal(response) {
  if (response.status === 401) return "Your sign-in has ended. Sign in in another tab, then load this page again.";
  if ((response.headers.get("Content-Type") || "").startsWith("application/json")) {
    return (await response.json()).error.message;
  }
  return `The page could not ask (${response.status}). Load it again.`;
}

function reason(error, signal, text) {
  if (signal.aborted) return "Stopped. What it took until then stands in the ledger.";
  if (error instanceof Refused) return error.message;
  return text ? "The connection broke off before the answer's end." : "The gateway cannot be reached.";
}

/* -- the form ------------------------------------------------------------------------------------------------------- */

const panes = [new Pane(0, form.elements.model), new Pane(1, form.elements.second)];

async function ask() {
  const text = message.value;
  if (running || !text.trim()) return;
  running = new AbortController();
  send.disabled = true;
  stop.hidden = false;
  message.value = "";
  announced.replaceChildren();
  announce("Asking …");
  const open = panes.filter((pane) => pane.isOpen);
  const answered = await Promise.all(open.map((pane) => pane.ask(text, running.signal)));
  if (!answered.includes(true) && !message.value) message.value = text; // nothing came: nothing has to be typed again
  if (document.activeElement === stop) message.focus();
  running = null;
  send.disabled = false;
  stop.hidden = true;
}

form.addEventListener("submit", (event) => {
  if (event.submitter?.hasAttribute("formaction")) return; // as code: that is the server's
  event.preventDefault();
  ask();
});
message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(send);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
stop.addEventListener("click", () => running?.abort());
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id === "code") document.querySelector("#code h2, #code .fault")?.focus();
});
