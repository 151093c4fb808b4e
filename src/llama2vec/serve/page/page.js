// The search page. What the server sends is only ever put into text nodes.
"use strict";

const NAMES = { dense: "Dense", bm25: "BM25", hybrid: "Hybrid" };
const DEPTHS = [10, 30, 100, 300, 1000];
const PAUSE_MS = 350;
const QUICK_PAUSE_MS = 40;
const RETRY_MS = 3000;
const MEET_MS = 1000;
const LOADING = "The model is loading…";
const TOKEN = "llama2vec token";
const at = (id) => document.getElementById(id);
const state = { question: "", where: "", depth: 0, modes: [], compare: false, own: "", available: [], quick: false, met: false, loading: false, asked: 0, stop: null, answers: [] };
let pause = 0;
let retry = 0;
let meeting = 0;

// ---- the address

function readAddress() {
  const address = new URLSearchParams(location.search);
  state.question = (address.get("q") ?? "").trim();
  state.where = (address.get("where") ?? "").trim();
  state.depth = Math.max(0, Number.parseInt(address.get("depth"), 10) || 0);
  state.modes = (address.get("mode") ?? "").split(",").filter(Boolean);
  state.compare = state.modes.length > 1;
  at("question").value = state.question;
  at("where").value = state.where;
}

function addressOf() {
  const address = new URLSearchParams();
  if (state.question) address.set("q", state.question);
  if (state.modes.length) address.set("mode", state.modes.join(","));
  if (state.where) address.set("where", state.where);
  if (state.depth) address.set("depth", String(state.depth));
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
  if (answer.ok && body) return body;
  const message = body?.error?.message ?? `The server answered with ${answer.status}.`;
  if (answer.status === 401) throw new Trouble("This search needs a token.", "token");
  if (answer.status === 503 && body?.error?.code === "loading") throw new Trouble("The model is still loading.", "gone");
  if (body?.error?.param === "depth") throw new Trouble(message, "depth");
  if (body?.error?.param === "where") throw new Trouble(message.replace(/^where: /, ""), "where");
  throw new Trouble(message[0].toUpperCase() + message.slice(1) + ".", "other");
}

function ask(mode, quick, signal) {
  const asked = new URLSearchParams({ q: state.question, group: "true" });
  if (state.depth) asked.set("depth", String(state.depth)); // else as many as the service gives unasked
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
  if (question !== state.question || where !== state.where) state.depth = 0;
  Object.assign(state, { question, where });
  writeAddress(meant);
  document.title = state.question ? `${state.question} · llama2vec` : "Search · llama2vec";
  if (!state.question) {
    state.answers = [];
    showAnswers();
    showTrouble(null);
    say(state.loading ? LOADING : "");
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
    state.stop.abort();
    if (error.kind === "depth" && state.depth) {
      state.depth = 0; // a link from a service that gives more at once
      search({ again: true });
      return;
    }
    state.answers = [];
    showAnswers();
    showTrouble(error);
    say("");
  } finally {
    if (turn === state.asked) document.body.classList.remove("busy");
  }
}

// ---- showing

// Passages of files are grouped by document. A full list may go on.
const isFull = (answer) => answer.hits.length >= answer.depth;

function plural(answer, first = "first") {
  const { hits } = answer;
  const noun = hits.some((hit) => hit.place) ? "document" : "passage";
  return `${isFull(answer) ? `${first} ` : ""}${hits.length} ${noun}${hits.length === 1 ? "" : "s"}`;
}

// How many are shown next; 0 = there are no more, or the service gives no more.
function nextDepth() {
  const full = state.answers.filter(isFull);
  if (!full.length) return 0;
  const { depth, max_depth: most } = full[0];
  return depth < most ? Math.min(DEPTHS.find((step) => step > depth) ?? most, most) : 0;
}

const ms = (time) => `${Math.max(1, Math.round(time))} ms`;

function summary(answers) {
  const cut = answers.some((answer) => answer.cut) ? " Only the beginning of the question was read." : "";
  if (answers.length > 1) {
    return answers.map((answer) => `${NAMES[answer.mode]}: ${plural(answer)}`).join(" · ") + (cut && `.${cut}`);
  }
  const [{ hits, took_ms: took, encode_ms: encoded, search_ms: searched, mode, where }] = answers;
  if (!hits.length) {
    const among = where ? " among what fits the filter" : "";
    return `Nothing found by ${NAMES[mode]} for “${state.question}”${among}. Try other words, or another way to search.${cut}`;
  }
  const parts = encoded === null ? "" : ` (${ms(encoded)} to read the question, ${ms(searched)} to search)`;
  return `${plural(answers[0], "First")} by ${NAMES[mode]} in ${ms(took)}${parts}${cut && `.${cut}`}`;
}

function say(text) {
  if (at("status").textContent !== text) at("status").textContent = text; // else it would be read out again
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
  at("deeper").hidden = !nextDepth();
}

function columnOf(answer, many) {
  const column = at("column").content.firstElementChild.cloneNode(true);
  column.querySelector("h2").textContent = NAMES[answer.mode];
  column.setAttribute("aria-label", `${NAMES[answer.mode]} results`);
  column.querySelector(".summary").textContent =
    answer.hits.length ? `${plural(answer, "First")} in ${ms(answer.took_ms)}` : "Nothing found";
  const best = Math.max(...answer.hits.map((hit) => hit.score));
  const list = column.querySelector(".hits");
  list.append(...answer.hits.map((hit) => hitOf(hit, answer, best, many ? othersWith(hit, answer) : [])));
  if (!answer.hits.length) list.remove();
  return column;
}

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

at("deeper").addEventListener("click", async () => {
  const shown = Math.max(...state.answers.map((answer) => answer.hits.length));
  state.depth = nextDepth();
  await search({ meant: true });
  const hits = lists().find((column) => column.length > shown);
  hits?.[shown].focus();
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
  clearTimeout(meeting);
  try {
    const health = await (await fetch("healthz")).json();
    state.loading = health.status === "loading";
    state.met = health.modes.length > 0;
    if (state.met) showModes(health.modes);
    state.quick = health.quick;
  } catch {
    // The search reports what is wrong.
  }
  if (!state.met) meeting = setTimeout(meet, MEET_MS);
  if (!state.question) say(state.loading ? LOADING : "");
}

async function begin() {
  readAddress();
  if (!state.question) at("question").focus();
  await meet();
  if (state.question) search();
}

begin();
