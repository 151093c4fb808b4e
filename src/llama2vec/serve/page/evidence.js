// The words of the question in a text, marked.
"use strict";

const SHORTEST_PREFIX = 4;
const SHORTEST_STEM = 5;
const LONGEST_ENDING = 3;

// Marks that any script may have, vowels that writers of Arabic and Hebrew leave out, tatweel, and joiners. The ı of
// Turkish, whose capital is I, counts as i.
const LEFT_OUT = /(?=[\p{sc=Inherited}\p{sc=Arabic}\p{sc=Hebrew}])\p{M}|[\u0640\u200c\u200d]/gu;
const fold = (text) => text.normalize("NFD").toLowerCase().replace(LEFT_OUT, "").replaceAll("ı", "i");

// Words, and overlapping pairs of letters of scripts without spaces, as BM25 reads them: [text, begin, end].
const SIGNS = "\\p{sc=Han}\\p{sc=Hiragana}\\p{sc=Katakana}\\p{sc=Hangul}ー";
const UNSPACED = "\\p{sc=Thai}\\p{sc=Lao}\\p{sc=Myanmar}\\p{sc=Khmer}";
const JOINER = "[\\u200c\\u200d](?=[\\p{L}\\p{N}\\p{M}])";
const RUN = new RegExp(
  `((?:(?:[${SIGNS}]|(?=[${UNSPACED}])[\\p{L}\\p{N}])(?:\\p{M}|${JOINER})*)+)` +
    `|(?:(?![${SIGNS}${UNSPACED}])[\\p{L}\\p{N}\\p{M}]|${JOINER})+`,
  "gu",
);
const LETTER = /.[\p{M}\u200c\u200d]*/gsu;
// In Thai and the like, a letter with a mark may be a word.
const ALONE = new RegExp(`^(?![${SIGNS}]).\\p{M}`, "u");

function* piecesOf(text) {
  for (const { 0: run, 1: paired, index } of text.matchAll(RUN)) {
    const parts = paired ? run.match(LETTER) : [run];
    let begin = index;
    for (const [place, part] of parts.entries()) {
      const middle = begin + part.length;
      const next = parts[place + 1];
      if (parts.length === 1 || ALONE.test(part)) yield [part, begin, middle];
      if (next) yield [part + next, begin, middle + next.length];
      begin = middle;
    }
  }
}

// The server knows the little words of the passage's language, and leaves them out.
const wordsOf = (hit) => [...new Set(hit.words.map(fold))];

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
