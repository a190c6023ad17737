// The chat page. The key lives in sessionStorage only; the conversation only in this tab.

import { ApiError, chat, listModels } from "./api.js";
import { otherLanguage, say, speak } from "./strings.js";

const $ = (id) => document.getElementById(id);
const KEY = "slipway.key";
let turns = [];
let running = null; // AbortController of the answer that is coming

// --- looks -----------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");

function setTheme(name) {
  document.documentElement.dataset.theme = name ?? (dark.matches ? "dark" : "light");
}

function setLanguage(name) {
  speak(name);
  $("language").textContent = say("otherLanguage");
  $("language").lang = otherLanguage();
}

$("theme").onclick = () => {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("slipway.theme", name);
  setTheme(name);
};
dark.onchange = () => setTheme(localStorage.getItem("slipway.theme"));
$("language").onclick = () => {
  localStorage.setItem("slipway.language", otherLanguage());
  setLanguage(otherLanguage());
};

// --- key and models --------------------------------------------------------

function showChat(open) {
  for (const id of ["chat", "composer", "model-field", "new", "forget"]) $(id).hidden = !open;
  $("key-form").hidden = open;
  $(open ? "message" : "key").focus();
}

async function enter(key) {
  const models = await listModels(key);
  if (!models.length) throw new ApiError(say("noModels"), 403);
  sessionStorage.setItem(KEY, key);
  const before = $("model").value;
  $("model").replaceChildren(...models.map((name) => new Option(name, name)));
  if (models.includes(before)) $("model").value = before;
  showChat(true);
}

function leave(message = "") {
  running?.abort();
  sessionStorage.removeItem(KEY);
  $("key").value = "";
  showChat(false);
  $("key-error").textContent = message;
}

$("key-form").onsubmit = async (event) => {
  event.preventDefault();
  $("key-error").textContent = "";
  try {
    await enter($("key").value.trim());
    $("key").value = "";
  } catch (error) {
    $("key-error").textContent = explain(error);
  }
};
$("forget").onclick = () => {
  clear();
  leave();
};

// --- conversation ----------------------------------------------------------

function explain(error) {
  return error instanceof TypeError ? say("unreachable") : error.message;
}

function clear() {
  running?.abort();
  turns = [];
  $("log").replaceChildren();
  $("empty").hidden = false;
}

function addTurn(role, name, text) {
  const turn = document.createElement("article");
  turn.className = `turn ${role}`;
  const title = document.createElement("h3");
  title.textContent = name;
  if (role === "user") title.dataset.text = "you";
  const body = document.createElement("div");
  body.className = "text";
  body.textContent = text;
  const facts = document.createElement("p");
  facts.className = "facts";
  turn.append(title, body, facts);
  $("log").append(turn);
  $("empty").hidden = true;
  return { turn, body, facts };
}

/** Keep the newest text in view unless the reader has scrolled up. */
function follow(change) {
  const box = document.querySelector("main");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  change();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function factsLine(usage, started, first, ended) {
  if (!usage || first === null) return "";
  const seconds = (ended - first) / 1000;
  const speed = usage.completion_tokens > 1 && seconds > 0 ? ((usage.completion_tokens - 1) / seconds).toFixed(1) : "–";
  return say("facts", {
    prompt: usage.prompt_tokens,
    completion: usage.completion_tokens,
    first: ((first - started) / 1000).toFixed(2),
    speed,
  });
}

function setBusy(busy) {
  $("send").hidden = busy;
  $("stop").hidden = !busy;
}

async function ask(text) {
  const model = $("model").value;
  const system = $("system").value.trim();
  const asked = { role: "user", content: text };
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...turns, asked];
  let view;
  follow(() => {
    addTurn("user", say("you"), text);
    view = addTurn("assistant", model, "");
  });
  view.turn.setAttribute("aria-busy", "true");
  $("status").textContent = say("answering", { model });
  const mine = (running = new AbortController());
  setBusy(true);
  let answer = "";
  let first = null;
  let failure = "";
  const started = performance.now();
  try {
    const result = await chat(sessionStorage.getItem(KEY), model, messages, mine.signal, (piece) => {
      first ??= performance.now();
      answer += piece;
      follow(() => view.body.append(piece));
    });
    if (!result.finished) throw new ApiError(say("cut"), 502);
    follow(() => { view.facts.textContent = factsLine(result.usage, started, first, performance.now()); });
  } catch (error) {
    if (error.status === 401) leave(error.message);
    failure = mine.signal.aborted ? say("stopped") : explain(error);
    follow(() => { view.facts.textContent = failure; });
    if (!mine.signal.aborted) {
      view.facts.classList.add("bad");
      view.turn.classList.add("failed");
    }
  }
  view.turn.removeAttribute("aria-busy");
  if (running !== mine) return; // the conversation was cleared meanwhile
  running = null;
  setBusy(false);
  $("status").textContent = failure || say("answered");
  if (answer) turns.push(asked, { role: "assistant", content: answer });
  else if (failure && !$("message").value) setMessage(text);
}

// --- composer --------------------------------------------------------------

function setMessage(text) {
  const box = $("message");
  box.value = text;
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

$("message").oninput = () => setMessage($("message").value);
$("message").onkeydown = (event) => {
  // while an input method composes Chinese, Enter belongs to it
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  } else if (event.key === "Escape") {
    running?.abort();
  }
};
$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = $("message").value.trim();
  if (!text || running) return;
  setMessage("");
  ask(text);
};
$("stop").onclick = () => {
  running?.abort();
  $("message").focus();
};
$("new").onclick = () => {
  clear();
  running = null;
  setBusy(false);
  $("message").focus();
};
$("system").oninput = () => {
  const text = $("system").value.trim();
  $("system-preview").textContent = text ? `· ${text}` : "";
};

// --- start -----------------------------------------------------------------

setTheme(localStorage.getItem("slipway.theme"));
setLanguage(localStorage.getItem("slipway.language") ?? undefined);
const saved = sessionStorage.getItem(KEY);
if (saved) enter(saved).catch((error) => leave(explain(error)));
else showChat(false);
