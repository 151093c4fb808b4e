"""Real texts to measure on: joined Wikipedia passages and Cranfield abstracts, else Python's documentation."""

from __future__ import annotations

import gzip
import json
import runpy
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from benchmarks.paths import REPOSITORY

DATA = REPOSITORY.parent / "shared" / "data"

_WORDS_PER_TOKEN = 0.75
_BOUNDARY_MARGIN = 8


def documents(data: Path) -> tuple[str, list[list[str]]]:
    """Return the name of the running text's source, and each document as its passages in reading order."""
    wiki = data / "wiki" / "dev.jsonl"
    if wiki.is_file():
        with wiki.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        # Passage ids are "article-number".
        groups = groupby(rows, key=lambda row: row["id"].partition("-")[0])
        return "wiki/dev.jsonl", [[row["text"] for row in group] for _, group in groups]
    return "Python documentation", [list(_paragraphs(text)) for _, text in _docstrings()]


def continuations(passages: list[list[str]], max_tokens: int, count: int) -> list[tuple[str, str]]:
    """Join a document's passages into pieces of about ``max_tokens`` tokens, and pair each piece with the next.

    Returns:
        ``count`` pairs (T, U); they repeat from the first if the documents run out.
    """
    pairs: list[tuple[str, str]] = []
    for document in passages:
        pieces = list(_joined(document, int(max_tokens * _WORDS_PER_TOKEN)))
        pairs.extend(pairwise(pieces))
        if len(pairs) >= count:
            return pairs[:count]
    if not pairs:
        raise SystemExit(
            f"no document is long enough for two pieces of {max_tokens} tokens; choose a shorter --lengths"
        )
    return [pairs[number % len(pairs)] for number in range(count)]


def question_pairs(data: Path, tokenizer: Any, max_tokens: int, count: int) -> tuple[str, list[tuple[str, str]]]:
    """Return the source and ``count`` pairs (question, passage), each cut at a word boundary to ``max_tokens``."""
    path = data / "pairs" / "squad-passages.jsonl.gz"
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        source, pairs = f"pairs/{path.name}", [(row["query"], row["pos"][0]) for row in rows]
    else:
        source, pairs = "Python documentation", [(name, text) for name, text in _docstrings()]
    # Evenly from the whole file: neighbors are questions about one passage.
    chosen = [pairs[number * len(pairs) // count] for number in range(count)]
    return source, [(_cut(query, tokenizer, max_tokens), _cut(text, tokenizer, max_tokens)) for query, text in chosen]


def retrieval_texts(data: Path, tokenizer: Any, max_tokens: int, count: int) -> tuple[str, list[str]]:
    """Return the source and ``count`` texts to encode, each cut at a word boundary to at most ``max_tokens`` tokens.

    Cutting here, as text, gives every encoder the same input; a cut inside a word would tokenize differently.
    """
    folder = data / "cranfield"
    if folder.is_dir():
        from llama2vec.data.corpus.passages import read_passages

        source, texts = "cranfield", (passage.full_text for passage in read_passages(str(folder)))
    else:
        source, texts = "Python documentation", (text for _, text in _docstrings())
    found = []
    for text in texts:
        cut = _cut(" ".join(text.split()), tokenizer, max_tokens)
        if cut:
            found.append(cut)
        if len(found) == count:
            break
    return source, found


def texts_of_length(data: Path, tokenizer: Any, length: int, count: int) -> tuple[str, list[str]]:
    """Return the source and ``count`` running texts of whole words with about ``length`` tokens, rarely one more.

    They repeat from the first if the documents run out.
    """
    source, found = documents(data)
    texts: list[str] = []
    for document in found:
        texts.extend(_of_length(" ".join(document).split(), tokenizer, length))
        if len(texts) >= count:
            return source, texts[:count]
    if not texts:
        raise SystemExit(f"no document has {length} tokens; choose a shorter --lengths")
    return source, [texts[number % len(texts)] for number in range(count)]


def _of_length(words: list[str], tokenizer: Any, length: int) -> Iterator[str]:
    counts = [len(ids) for ids in tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]]
    text: list[str] = []
    held = 0
    for word, count in zip(words, counts, strict=True):
        if text and held + count > length:
            yield " ".join(text)
            text, held = [], 0
        text.append(word)
        held += count


def _joined(document: list[str], words: int) -> Iterator[str]:
    piece: list[str] = []
    held = 0
    for passage in document:
        piece.append(passage)
        held += len(passage.split())
        if held >= words:
            yield " ".join(piece)
            piece, held = [], 0
    if piece:
        yield " ".join(piece)


def _cut(text: str, tokenizer: Any, max_tokens: int) -> str:
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if len(offsets) <= max_tokens:
        return text
    # A few tokens short of the limit: the text before the cut may tokenize into one or two more.
    end = offsets[max_tokens - _BOUNDARY_MARGIN][0]
    return text[:end].rpartition(" ")[0]


def _docstrings() -> Iterator[tuple[str, str]]:
    # By its path: a package may have installed its own `examples`.
    yield from runpy.run_path(str(REPOSITORY / "examples" / "python_documentation.py"))["docstrings"]()


def _paragraphs(text: str) -> Iterator[str]:
    yield from (" ".join(part.split()) for part in text.split("\n\n") if part.strip())
