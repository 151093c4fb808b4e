// The search page. What the server sends is only ever put into text nodes.
"use strict";

const NAMES = { dense: "Dense", bm25: "BM25", hybrid: "Hybrid" };
const DEPTH = 10;
const PAUSE_MS = 350;
const RETRY_MS = 3000;
const ALIKE_FROM = 4;
const TOKEN = "llama2vec token";
const LITTLE_WORDS = new Set(
  ("a an and are as at be been but by can could did do does for from had has have how i if in into is it its me my of on " +
   "or our should so than that the their them then there these they this to was we were what when where which who " +
   "whom whose why will with would you your").split(" "));

const at = (id) => document.getElementById(id);
const state = { question: "", modes: [], compare: false, available: [], asked: 0, stop: null, answers: [] };
let pause = 0;
let retry = 0;

// ---- the address

function readAddress() {
  const address = new URLSearchParams(location.search);
  state.question = address.get("q") ?? "";
  state.modes = (address.get("mode") ?? "").split(",").filter(Boolean);
  state.compare = state.modes.length > 1;
  at("question").value = state.question;
}

function addressOf() {
  const address = new URLSearchParams();
  if (state.question) address.set("q", state.question);
  if (state.modes.length) address.set("mode", state.modes.join(","));
  // A comma is legal in a query and easier to read.
  const text = address.toString().replaceAll("%2C", ",");
  return text ? `?${text}` : location.pathname;
}

// Typing replaces the history entry; Enter and a choice of mode add one to go back to.
function writeAddress(meant) {
  const next = addressOf();
  if (next === location.search) return;
  if (meant) history.pushState(null, "", next);
  else history.replaceState(null, "", next);
}

// ---- asking

class Trouble extends Error {
  constructor(message, kind) {
    super(message);
    this.kind = kind;
  }
}

async function ask(mode, signal) {
  const asked = new URLSearchParams({ q: state.question, depth: String(DEPTH) });
  if (mode) asked.set("mode", mode);
  const token = sessionStorage.getItem(TOKEN);
  let answer;
  try {
    answer = await fetch(`search?${asked}`, { signal, headers: token ? { Authorization: `Bearer ${token}` } : {} });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server does not answer.", "gone");
  }
  let body = null;
  try {
    body = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (answer.ok && body) return body;
  const message = body?.error?.message ?? `The server answered with ${answer.status}.`;
  if (answer.status === 401) throw new Trouble("This search needs a token.", "token");
  if (answer.status === 503 && body?.error?.code === "loading") throw new Trouble("The model is still loading.", "gone");
  throw new Trouble(message[0].toUpperCase() + message.slice(1) + ".", "other");
}

async function search({ meant = false, again = false } = {}) {
  clearTimeout(pause);
  clearTimeout(retry);
  state.stop?.abort();
  state.question = at("question").value.trim();
  writeAddress(meant);
  document.title = state.question ? `${state.question} · llama2vec` : "Search · llama2vec";
  if (!state.question) {
    state.answers = [];
    showAnswers();
    showTrouble(null);
    say("");
    document.body.classList.remove("busy");
    return;
  }
  const turn = ++state.asked;
  state.stop = new AbortController();
  document.body.classList.add("busy");
  if (!again) say("Searching…"); // a screen reader need not announce every retry
  try {
    const modes = state.modes.length ? state.modes : [null];
    const answers = await Promise.all(modes.map((mode) => ask(mode, state.stop.signal)));
    if (turn !== state.asked) return;
    state.answers = answers;
    showModes(answers[0].modes);
    showTrouble(null);
    showAnswers();
    say(summary(answers));
  } catch (error) {
    if (error.name === "AbortError" || turn !== state.asked) return;
    state.stop.abort();
    state.answers = [];
    showAnswers();
    showTrouble(error);
    say("");
  } finally {
    if (turn === state.asked) document.body.classList.remove("busy");
  }
}

// ---- showing

const plural = (count) => (count === 1 ? "1 passage" : `${count} passages`);

function summary(answers) {
  if (answers.length > 1) return answers.map((answer) => `${NAMES[answer.mode]}: ${plural(answer.hits.length)}`).join(" · ");
  const [{ hits, took_ms: took, mode }] = answers;
  if (!hits.length) return `Nothing found by ${NAMES[mode]} for “${state.question}”. Try other words, or another way to search.`;
  return `${plural(hits.length)} by ${NAMES[mode]} in ${Math.max(1, Math.round(took))} ms`;
}

function say(text) {
  at("status").textContent = text;
}

function showTrouble(error) {
  const box = at("trouble");
  box.hidden = !error;
  if (!error) return;
  at("token-form").hidden = error.kind !== "token";
  at("retry").hidden = error.kind === "token";
  const hint = error.kind === "gone" ? " Trying again every few seconds." : "";
  at("trouble-text").textContent = (error.message ?? "Something went wrong.") + hint;
  if (error.kind === "token") at("token").focus();
  // The answer appears by itself once the server is back.
  if (error.kind === "gone") retry = setTimeout(() => search({ again: true }), RETRY_MS);
}

function showModes(available) {
  state.available = available;
  // A mode that the index does not have stays: the search then says so, instead of showing another mode's results.
  if (!state.modes.length) state.modes = [available[0]];
  state.compare &&= available.length > 1;
  at("compare-choice").hidden = available.length < 2;
  at("compare").checked = state.compare;
  const buttons = available.map((mode) => {
    const existing = at("modes").querySelector(`[data-mode="${mode}"]`);
    const button = existing ?? Object.assign(document.createElement("button"), { type: "button", textContent: NAMES[mode] });
    button.dataset.mode = mode;
    button.setAttribute("aria-pressed", String(state.modes.includes(mode)));
    return button;
  });
  if (buttons.some((button) => !button.isConnected)) at("modes").replaceChildren(...buttons);
}

function showAnswers() {
  at("welcome").hidden = Boolean(state.question);
  const many = state.answers.length > 1;
  at("columns").classList.toggle("many", many);
  at("columns").replaceChildren(...state.answers.map((answer) => columnOf(answer, many)));
}

function columnOf(answer, many) {
  const column = at("column").content.firstElementChild.cloneNode(true);
  column.querySelector("h2").textContent = NAMES[answer.mode];
  column.setAttribute("aria-label", `${NAMES[answer.mode]} results`);
  const took = `${Math.max(1, Math.round(answer.took_ms))} ms`;
  column.querySelector(".summary").textContent = answer.hits.length ? `${plural(answer.hits.length)} in ${took}` : "Nothing found";
  const best = Math.max(...answer.hits.map((hit) => hit.score));
  const words = wordsOf(state.question);
  const list = column.querySelector(".hits");
  list.append(...answer.hits.map((hit) => hitOf(hit, best, words, many ? othersWith(hit, answer) : [])));
  if (!answer.hits.length) list.remove();
  return column;
}

// Ranks of the passage in the other columns.
function othersWith(hit, answer) {
  return state.answers.filter((other) => other !== answer).flatMap((other) => {
    const there = other.hits.find((found) => found.id === hit.id);
    return there ? [`${NAMES[other.mode]} ${there.rank}`] : [];
  });
}

function hitOf(hit, best, words, others) {
  const item = at("hit").content.firstElementChild.cloneNode(true);
  const part = (name) => item.querySelector(`.${name}`);
  part("rank").textContent = `${hit.rank}`;
  highlight(part("title"), hit.title || hit.id, words);
  part("score").textContent = hit.score.toFixed(hit.score < 10 ? 3 : 1);
  part("score").title = "Score";
  part("bar-of-score").firstElementChild.style.width = `${best > 0 ? Math.max(2, (100 * hit.score) / best) : 100}%`;
  part("id").textContent = hit.title ? hit.id : "";
  highlight(part("text"), hit.snippet, words);
  part("also").hidden = !others.length;
  part("also").textContent = `also ${others.join(", ")}`;
  const button = part("open");
  if (hit.snippet === hit.text.trim().replace(/\s+/g, " ")) {
    button.removeAttribute("aria-expanded"); // the whole text is visible already
    return item;
  }
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    highlight(part("text"), open ? hit.text : hit.snippet, words);
  });
  return item;
}

// ---- evidence

const fold = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

// Words, and overlapping pairs of CJK characters, as BM25 reads them: [text, begin, end].
const SIGNS = "\\p{sc=Han}\\p{sc=Hiragana}\\p{sc=Katakana}\\p{sc=Hangul}ー";
const RUN = new RegExp(`([${SIGNS}]+)|(?:(?![${SIGNS}])[\\p{L}\\p{N}\\p{M}])+`, "gu");

function* piecesOf(text) {
  for (const { 0: run, 1: signs, index } of text.matchAll(RUN)) {
    const parts = signs ? [...signs] : [run];
    let begin = index;
    for (const [place, part] of parts.entries()) {
      const pair = part + (parts[place + 1] ?? "");
      if (place === 0 || place < parts.length - 1) yield [pair, begin, begin + pair.length];
      begin += part.length;
    }
  }
}

function wordsOf(question) {
  const words = [...new Set([...piecesOf(question)].map(([piece]) => fold(piece)))];
  const telling = words.filter((word) => !LITTLE_WORDS.has(word));
  return telling.length ? telling : words;
}

// The same word with another ending: wing and wings, delay and delayed.
function alike(word, wanted) {
  if (word === wanted) return true;
  const [short, long] = word.length < wanted.length ? [word, wanted] : [wanted, word];
  return short.length >= ALIKE_FROM && long.length - short.length <= 3 && long.startsWith(short);
}

function highlight(element, text, words) {
  const spans = [];
  for (const [piece, begin, end] of piecesOf(text)) {
    const word = fold(piece);
    if (!words.some((wanted) => alike(word, wanted))) continue;
    if (spans.at(-1)?.[1] > begin) spans.at(-1)[1] = end;
    else spans.push([begin, end]);
  }
  const parts = [];
  let last = 0;
  for (const [begin, end] of spans) {
    const mark = document.createElement("mark");
    mark.textContent = text.slice(begin, end);
    parts.push(text.slice(last, begin), mark);
    last = end;
  }
  parts.push(text.slice(last));
  element.replaceChildren(...parts);
}

// ---- keys

const lists = () => [...document.querySelectorAll(".column")].map((column) => [...column.querySelectorAll(".open")]);

function placeOfFocus() {
  const all = lists();
  for (const [column, buttons] of all.entries()) {
    const row = buttons.indexOf(document.activeElement);
    if (row >= 0) return { column, row };
  }
  return null;
}

function move(key) {
  const all = lists();
  const place = placeOfFocus();
  if (!place) {
    if (key === "ArrowDown") all.find((buttons) => buttons.length)?.[0].focus();
    return key === "ArrowDown" && all.some((buttons) => buttons.length);
  }
  const { column, row } = place;
  if (key === "ArrowUp" && row === 0) {
    at("question").focus();
    return true;
  }
  const step = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] }[key];
  const target = all[column + step[0]];
  if (!target?.length) return false;
  const next = target[step[0] ? Math.min(row, target.length - 1) : row + step[1]];
  next?.focus();
  return Boolean(next);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.("input:not([type=checkbox])");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    at("question").focus();
    at("question").select();
  } else if (event.key === "Escape" && event.target !== at("question")) {
    at("question").focus();
  } else if (event.key === "ArrowDown" || (!typing && event.key.startsWith("Arrow"))) {
    if (move(event.key)) event.preventDefault();
  }
});

// ---- events

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  search({ meant: true });
});

at("question").addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(() => search(), PAUSE_MS);
});

at("modes").addEventListener("click", (event) => {
  const mode = event.target.closest("button")?.dataset.mode;
  if (!mode) return;
  if (state.compare) {
    const chosen = state.modes.includes(mode) ? state.modes.filter((other) => other !== mode) : [...state.modes, mode];
    if (!chosen.length) return;
    state.modes = state.available.filter((other) => chosen.includes(other));
  } else {
    state.modes = [mode];
  }
  showModes(state.available);
  search({ meant: true });
});

at("compare").addEventListener("change", () => {
  state.compare = at("compare").checked;
  state.modes = state.compare ? [...state.available] : [state.modes[0]];
  showModes(state.available);
  search({ meant: true });
});

at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, at("token").value.trim());
  at("token").value = "";
  at("question").focus();
  search();
});

at("retry").addEventListener("click", () => {
  at("question").focus();
  search();
});

at("home").addEventListener("click", (event) => {
  event.preventDefault();
  at("question").value = "";
  search({ meant: true });
  at("question").focus();
});

addEventListener("popstate", () => {
  readAddress();
  if (state.available.length) showModes(state.available);
  search();
});

async function begin() {
  readAddress();
  if (!state.question) at("question").focus();
  try {
    const health = await (await fetch("healthz")).json();
    if (health.modes.length) showModes(health.modes);
  } catch {
    // The search reports what is wrong.
  }
  if (state.question) search();
}

begin();
