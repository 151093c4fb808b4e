// The search page. What the server sends is only ever put into text nodes.
"use strict";

const NAMES = { dense: "Dense", bm25: "BM25", hybrid: "Hybrid" };
const DEPTHS = [10, 30, 100];
const PAUSE_MS = 350;
const QUICK_PAUSE_MS = 40;
const RETRY_MS = 3000;
const TOKEN = "llama2vec token";
const at = (id) => document.getElementById(id);
const state = { question: "", where: "", modes: [], compare: false, own: "", available: [], depth: DEPTHS[0], deepest: DEPTHS.at(-1), quick: false, met: false, asked: 0, stop: null, answers: [] };
let pause = 0;
let retry = 0;

// ---- the address

function readAddress() {
  const address = new URLSearchParams(location.search);
  state.question = address.get("q") ?? "";
  state.where = address.get("where") ?? "";
  state.modes = (address.get("mode") ?? "").split(",").filter(Boolean);
  state.compare = state.modes.length > 1;
  state.depth = DEPTHS.find((depth) => String(depth) === address.get("depth")) ?? DEPTHS[0];
  at("question").value = state.question;
  at("where").value = state.where;
}

function addressOf() {
  const address = new URLSearchParams();
  if (state.question) address.set("q", state.question);
  if (state.modes.length) address.set("mode", state.modes.join(","));
  if (state.where) address.set("where", state.where);
  if (state.depth > DEPTHS[0]) address.set("depth", String(state.depth));
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

async function request(address, signal) {
  const token = sessionStorage.getItem(TOKEN);
  try {
    return await fetch(address, { signal, headers: token ? { Authorization: `Bearer ${token}` } : {} });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server does not answer.", "gone");
  }
}

async function askFor(address, signal) {
  const answer = await request(address, signal);
  let body = null;
  try {
    body = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  // Of a long question, the model reads only the beginning.
  if (answer.ok && body) return Object.assign(body, { cut: Number(answer.headers.get("X-Cut-Texts")) > 0 });
  const message = body?.error?.message ?? `The server answered with ${answer.status}.`;
  if (answer.status === 401) throw new Trouble("This search needs a token.", "token");
  if (answer.status === 503 && body?.error?.code === "loading") throw new Trouble("The model is still loading.", "gone");
  if (body?.error?.param === "depth") throw new Trouble(message, "depth");
  if (body?.error?.param === "where") throw new Trouble(message.replace(/^where: /, ""), "where");
  throw new Trouble(message[0].toUpperCase() + message.slice(1) + ".", "other");
}

function ask(mode, quick, signal) {
  const asked = new URLSearchParams({ q: state.question, depth: String(state.depth), group: "true" });
  if (quick) asked.set("quick", "true");
  if (mode) asked.set("mode", mode);
  if (state.where) asked.set("where", state.where);
  return askFor(`search?${asked}`, signal);
}

async function search({ meant = false, again = false, quick = false } = {}) {
  clearTimeout(pause);
  clearTimeout(retry);
  state.stop?.abort();
  const [question, where] = [at("question").value.trim(), at("where").value.trim()];
  if (question !== state.question || where !== state.where) state.depth = DEPTHS[0];
  Object.assign(state, { question, where });
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
    const answers = await Promise.all(modes.map((mode) => ask(mode, quick, state.stop.signal)));
    if (turn !== state.asked) return;
    state.answers = answers;
    showModes(answers[0].modes);
    showTrouble(null);
    showAnswers();
    say(summary(answers));
    if (!state.met) meet();
    if (quick && answers.some((answer) => answer.encode_ms !== null)) state.quick = false; // the index has got vectors
    // The table's answer stands until typing pauses; then the model's takes its place.
    if (answers.some((answer) => answer.quick)) pause = setTimeout(() => search({ again: true }), PAUSE_MS);
  } catch (error) {
    if (error.name === "AbortError" || turn !== state.asked) return;
    if (error.kind === "depth" && state.depth > DEPTHS[0]) { // this service allows fewer
      state.deepest = DEPTHS[DEPTHS.indexOf(state.depth) - 1];
      state.depth = state.deepest;
      search({ again: true });
      return;
    }
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

// Passages of files are grouped by document.
function plural(hits) {
  const noun = hits.some((hit) => hit.place) ? "document" : "passage";
  const first = hits.length === state.depth ? "First " : "";
  return `${first}${hits.length} ${noun}${hits.length === 1 ? "" : "s"}`;
}

const ms = (time) => `${Math.max(1, Math.round(time))} ms`;

function summary(answers) {
  if (answers.length > 1) return answers.map((answer) => `${NAMES[answer.mode]}: ${plural(answer.hits)}`).join(" · ");
  const [{ hits, took_ms: took, encode_ms: encoded, search_ms: searched, mode, where }] = answers;
  if (!hits.length) {
    const among = where ? " among what fits the filter" : "";
    return `Nothing found by ${NAMES[mode]} for “${state.question}”${among}. Try other words, or another way to search.`;
  }
  const parts = encoded === null ? "" : ` (${ms(encoded)} to read the question, ${ms(searched)} to search)`;
  const cut = answers[0].cut ? ". Only the beginning of the question was read" : "";
  return `${plural(hits)} by ${NAMES[mode]} in ${ms(took)}${parts}${cut}`;
}

function say(text) {
  at("status").textContent = text;
}

function showTrouble(error) {
  const box = at("trouble");
  const problem = at("where-problem");
  problem.hidden = error?.kind !== "where";
  problem.textContent = problem.hidden ? "" : error.message;
  at("where").setAttribute("aria-invalid", String(!problem.hidden));
  box.hidden = !error || error.kind === "where";
  if (box.hidden) return;
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
  // Until someone chooses, the best mode is searched, also once the index has got a better one.
  if (!state.modes.length || (state.modes.length === 1 && state.modes[0] === state.own)) {
    state.own = available[0];
    state.modes = [state.own];
  }
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
  column.querySelector(".summary").textContent =
    answer.hits.length ? `${plural(answer.hits)} in ${ms(answer.took_ms)}` : "Nothing found";
  const best = Math.max(...answer.hits.map((hit) => hit.score));
  const list = column.querySelector(".hits");
  list.append(...answer.hits.map((hit) => hitOf(hit, answer, best, many ? othersWith(hit, answer) : [])));
  if (!answer.hits.length) list.remove();
  const deeper = column.querySelector(".deeper");
  const next = DEPTHS[DEPTHS.indexOf(state.depth) + 1];
  deeper.hidden = answer.hits.length < state.depth || !next || next > state.deepest;
  deeper.addEventListener("click", () => {
    state.depth = next;
    search({ meant: true });
  });
  return column;
}

// ---- keys

const lists = () => [...document.querySelectorAll(".column")].map((column) => [...column.querySelectorAll(".open")]);

// The hit that the focus is in, whichever of its parts has it.
function placeOfFocus() {
  const own = document.activeElement.closest?.(".hit")?.querySelector(".open");
  for (const [column, buttons] of lists().entries()) {
    const row = buttons.indexOf(own);
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
  if (event.target.closest?.(".context") && event.key.startsWith("Arrow")) return; // they scroll it
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
  pause = setTimeout(() => search({ quick: state.quick, again: state.quick }), state.quick ? QUICK_PAUSE_MS : PAUSE_MS);
});

at("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  search({ meant: true });
});

at("where").addEventListener("change", () => search({ meant: true }));

// What can be named is told once someone wants to filter.
at("where").addEventListener("focus", async () => {
  const hint = at("where-hint");
  hint.hidden = false;
  if (hint.dataset.done) return;
  try {
    const { fields } = await askFor("fields");
    hint.dataset.done = "yes";
    hint.textContent = `Fields: ${fields.slice(0, 24).join(", ")}${fields.length > 24 ? ", …" : ""}. ~ means contains.`;
  } catch {
    hint.textContent = "";
  }
});

at("modes").addEventListener("click", (event) => {
  const mode = event.target.closest("button")?.dataset.mode;
  if (!mode) return;
  state.own = "";
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
  at("where").value = "";
  search({ meant: true });
  at("question").focus();
});

addEventListener("popstate", () => {
  readAddress();
  if (state.available.length) showModes(state.available);
  search();
});

// What the service can do is known once it has loaded, which may be after the page has opened.
async function meet() {
  try {
    const health = await (await fetch("healthz")).json();
    state.met = health.modes.length > 0;
    if (state.met) showModes(health.modes);
    state.quick = health.quick;
    if (state.question) return; // the search says the rest
    const isLoading = health.status === "loading";
    if (isLoading) say("The model is loading…");
    else if (at("status").textContent === "The model is loading…") say("");
    if (isLoading || !state.met) setTimeout(meet, RETRY_MS);
  } catch {
    // The search reports what is wrong.
  }
}

async function begin() {
  readAddress();
  if (!state.question) at("question").focus();
  await meet();
  if (state.question) search();
}

begin();
