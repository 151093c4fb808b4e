// One hit: its place, the evidence, its neighbors in the document, and why it matches.
"use strict";

const MOST_MORE = 6;
const REACHES = [1, 3, 8, 20];
// As the reader of documents has them, and JSON that it reads as text.
const CODE = new Set(
  ("py pyi pyx ipy c h cc cpp cxx hh hpp hxx m mm cs java kt kts scala groovy go rs swift js mjs cjs jsx ts tsx vue php rb " +
   "pl pm lua r jl hs ml mli fs clj lisp el erl ex exs dart zig nim sh bash zsh fish ps1 bat sql asm s v vhd f f90 f95 for " +
   "pas d ada adb ads cmake mk gradle tf proto thrift graphql toml yaml yml ini cfg conf properties json").split(" "));

const isCode = (hit) => CODE.has(/\.([^./]+)$/.exec(hit.place?.document ?? "")?.[1].toLowerCase());
// Lines that are empty before and after a text; its first line keeps its indentation.
const withoutBlankEnds = (text) => text.replace(/^(?:[^\S\n]*\n)+/, "").trimEnd();
const flat = (text) => text.normalize("NFC").trim().replace(/\s+/g, " ");
// An ellipsis tells that a passage begins inside a line.
const wholeText = (hit) => (hit.continues ? "…" : "") + withoutBlankEnds(hit.text);

// Ranks of the passage in the other columns.
function othersWith(hit, answer) {
  return state.answers.filter((other) => other !== answer).flatMap((other) => {
    const there = other.hits.find((found) => found.id === hit.id);
    return there ? [`${NAMES[other.mode]} ${there.rank}`] : [];
  });
}

function hitOf(hit, answer, best, others) {
  const item = at("hit").content.firstElementChild.cloneNode(true);
  const part = (name) => item.querySelector(`.${name}`);
  const words = wordsOf(hit);
  part("rank").textContent = `${hit.rank}`;
  item.classList.toggle("code", isCode(hit));
  showTitle(part("title"), hit, words);
  part("score").textContent = hit.score.toFixed(hit.score < 10 ? 3 : 1);
  part("score").title = "Score";
  part("bar-of-score").firstElementChild.style.width = `${best > 0 ? Math.max(2, (100 * hit.score) / best) : 100}%`;
  part("id").textContent = hit.title ? hit.location : "";
  part("also").hidden = !others.length;
  part("also").textContent = `also ${others.join(", ")}`;
  showMore(item, hit, words);
  showSteps(item, hit, answer, words);
  showText(item, hit, words);
  return item;
}

// The snippet, which a button replaces by the whole text where that is longer. The whole text closes the document.
function showText(item, hit, words) {
  const text = item.querySelector(".text");
  const button = item.querySelector(".open");
  if (hit.snippet === flat(wholeText(hit))) {
    button.remove();
    highlight(text, wholeText(hit), words); // with its lines, which the snippet lacks
    return;
  }
  const show = (open) => {
    button.setAttribute("aria-expanded", String(open));
    highlight(text, open ? wholeText(hit) : hit.snippet, words);
  };
  show(false);
  button.addEventListener("click", () => {
    for (const one of item.querySelectorAll(".more button")) one.setAttribute("aria-pressed", "false");
    showContext(item, null, words);
    show(button.getAttribute("aria-expanded") !== "true");
  });
  // Opening the document sends this event: the text is not shown beside it, and would be open when it closes.
  item.addEventListener("reading", () => show(false));
}

// ---- the document

function showTitle(element, hit, words) {
  if (!hit.file) {
    highlight(element, hit.title || hit.location, words);
    return;
  }
  const link = Object.assign(document.createElement("a"), {
    href: hit.file + fragmentOf(hit), target: "_blank", rel: "noopener",
  });
  highlight(link, hit.title || hit.location, words);
  link.title = "Open the document in a new tab";
  link.addEventListener("click", (event) => {
    if (!sessionStorage.getItem(TOKEN)) return;
    event.preventDefault(); // a link cannot carry the token
    save(hit);
  });
  element.replaceChildren(link);
}

// Where a browser goes in the document: to the page, else to the first words of the passage.
function fragmentOf(hit) {
  if (hit.place.page) return `#page=${hit.place.page}`;
  const words = hit.text.trim().split("\n")[0].split(/\s+/).slice(0, 8).join(" ");
  return `#:~:text=${encodeURIComponent(words).replaceAll("-", "%2D")}`;
}

async function save(hit) {
  try {
    const answer = await request(hit.file);
    if (!answer.ok) throw new Trouble("The document is no longer there.", "other");
    const address = URL.createObjectURL(await answer.blob());
    Object.assign(document.createElement("a"), { href: address, download: hit.file.split("/").pop() }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  } catch (error) {
    showTrouble(error);
  }
}

// The document's other passages; each opens in its surroundings.
function showMore(item, hit, words) {
  const line = item.querySelector(".more");
  const places = new Map();
  for (const other of hit.more) {
    if (!places.has(other.spot) && other.spot !== hit.spot) places.set(other.spot, other);
  }
  line.hidden = !places.size;
  const buttons = [...places.values()].map((other) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: other.spot });
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") === "true";
      for (const one of line.querySelectorAll("button")) one.setAttribute("aria-pressed", String(!shown && one === button));
      showContext(item, shown ? null : other, words);
    });
    return button;
  });
  // A button in the place of one would be no shorter.
  const rest = buttons.length > MOST_MORE + 1 ? buttons.splice(MOST_MORE) : [];
  line.replaceChildren("also ", ...buttons);
  if (!rest.length) return;
  const all = Object.assign(document.createElement("button"), { type: "button", className: "rest", textContent: `and ${rest.length} more` });
  all.addEventListener("click", () => {
    all.replaceWith(...rest);
    rest[0].focus();
  });
  line.append(all);
}

async function showContext(item, passage, words, step = 0) {
  const box = item.querySelector(".context");
  const button = item.querySelector(".in-document");
  const row = passage?.row;
  box.hidden = !passage;
  button?.setAttribute("aria-expanded", String(Boolean(passage) && Number(button.dataset.row) === row));
  item.classList.toggle("reading", Boolean(passage));
  if (!passage) return;
  item.dispatchEvent(new Event("reading"));
  box.dataset.row = row;
  if (!box.childElementCount) box.textContent = "Opening…";
  try {
    const asked = new URLSearchParams({ row, id: passage.id, reach: REACHES[step] });
    const near = await askFor(`context?${asked}`);
    if (box.dataset.row !== String(row)) return;
    const parts = near.passages.map((one, place) => {
      const part = document.createElement("p");
      part.className = place === near.asked ? "here" : "near";
      part.dir = "auto";
      highlight(part, (near.continues && !place ? "…" : "") + withoutBlankEnds(one.text), words);
      return part;
    });
    const heading = document.createElement("p");
    heading.className = "where";
    heading.textContent = near.passages[near.asked].location;
    box.setAttribute("aria-label", `In its document: ${heading.textContent}`);
    box.replaceChildren(heading, ...parts);
    if (step < REACHES.length - 1 && near.passages.length > 1) {
      const wider = Object.assign(document.createElement("button"), { type: "button", textContent: "More around it" });
      wider.addEventListener("click", () => showContext(item, passage, words, step + 1));
      box.append(wider);
    }
  } catch (error) {
    box.textContent = error.message;
  }
}

// ---- what one can do with a hit

function showSteps(item, hit, answer, words) {
  const line = item.querySelector(".steps");
  const buttons = [];
  if (hit.place) {
    const button = stepOf("in-document", "In its document");
    button.dataset.row = hit.row;
    button.addEventListener("click", () => {
      for (const one of item.querySelectorAll(".more button")) one.setAttribute("aria-pressed", "false");
      showContext(item, button.getAttribute("aria-expanded") === "true" ? null : hit, words);
    });
    buttons.push(button);
  }
  if (answer.modes.includes("dense")) {
    const button = stepOf("reasons", "Why this hit");
    button.addEventListener("click", () => showReasons(item, button, hit, answer));
    buttons.push(button);
  }
  line.hidden = !buttons.length;
  line.replaceChildren(...buttons);
}

function stepOf(name, text) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: name, textContent: text });
  button.setAttribute("aria-expanded", "false");
  return button;
}

async function showReasons(item, button, hit, answer) {
  const box = item.querySelector(".why");
  box.hidden = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!box.hidden));
  if (box.hidden || box.dataset.done) return;
  box.textContent = "Reading both vectors…";
  try {
    const asked = new URLSearchParams({ q: answer.query, row: String(hit.row), id: hit.id });
    const found = await askFor(`explain?${asked}`);
    box.dataset.done = "yes";
    // Pieces of words tell little, unless there is nothing else.
    const whole = found.shared.filter(({ word }) => !word.startsWith("…"));
    if (whole.length) found.shared = whole;
    const heading = document.createElement("p");
    heading.textContent = found.shared.length ? "The vectors of question and passage both stand for"
      : `No word stands out in both vectors. The question stands for ${found.query_words.slice(0, 4).join(", ") || "none"}; ` +
        `the passage for ${found.passage_words.slice(0, 4).join(", ") || "none"}.`;
    const list = document.createElement("ul");
    const most = found.shared[0]?.contribution ?? 1;
    list.append(...found.shared.map(({ word, contribution }) => {
      const chip = Object.assign(document.createElement("li"), { textContent: word });
      chip.style.setProperty("--share", String(contribution / most));
      return chip;
    }));
    const cosine = Object.assign(document.createElement("p"), { textContent: `Cosine ${found.cosine.toFixed(3)}` });
    box.replaceChildren(heading, ...(found.shared.length ? [list] : []), cosine);
  } catch (error) {
    box.textContent = error.message;
  }
}
