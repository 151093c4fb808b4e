// The words of the question in a text, marked.
"use strict";

const SHORTEST_PREFIX = 4;
const SHORTEST_STEM = 5;
const LONGEST_ENDING = 3;
const LITTLE_WORDS = new Set(
  ("a an and are as at be been but by can could did do does for from had has have how i if in into is it its me my of on " +
   "or our should so than that the their them then there these they this to was we were what when where which who " +
   "whom whose why will with would you your").split(" "));

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

// The same word with another ending: wing and wings, delays and delayed.
function alike(word, wanted) {
  if (word === wanted) return true;
  const [short, long] = word.length < wanted.length ? [word, wanted] : [wanted, word];
  let common = 0;
  while (common < short.length && short[common] === long[common]) common += 1;
  return common >= (common === short.length ? SHORTEST_PREFIX : SHORTEST_STEM) && long.length - common <= LONGEST_ENDING;
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
