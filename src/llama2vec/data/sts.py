"""Sentence pairs with human similarity scores (STS)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from llama2vec.data.lines import numbered_lines
from llama2vec.data.sources import open_hub_dataset, reported
from llama2vec.errors import CorpusFormatError, EmptyCorpusError
from llama2vec.records import SentencePair

_COLUMNS = ("sentence1", "sentence2", "score")


def read_sentence_pairs(path: str | Path) -> list[SentencePair]:
    """Return the pairs of a TSV (no quoting) or CSV file whose header names sentence1, sentence2 and score.

    The columns may come in any order; others are ignored. Files may be gzip (``.gz``). ``hf:NAME[:CONFIG][:SPLIT]``
    reads the same columns of a Hugging Face dataset, by default from its ``test`` split.

    Raises:
        CorpusFormatError: No such source, another header, or a faulty row: the message names file and line.
        EmptyCorpusError: No pair below the header.
        MissingDependencyError: ``hf:`` without the package datasets.
    """
    if str(path).startswith("hf:"):
        return _hub_pairs(str(path))
    path = Path(path)
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith((".tsv", ".csv")):
        raise CorpusFormatError(f"{path}: unknown kind of sentence-pair file; give a .tsv or a .csv")
    rows = _csv_rows(path) if name.endswith(".csv") else _tsv_rows(path)
    first = next(rows, None)
    if first is None:
        raise EmptyCorpusError(f"{path} is empty; write a header: {', '.join(_COLUMNS)}")
    header_line, header = first
    missing = [column for column in _COLUMNS if column not in header]
    if missing:
        problem = f"has the header {', '.join(header)}, without {' and '.join(missing)}"
        raise CorpusFormatError(f"{path}:{header_line} {problem}; name the columns {', '.join(_COLUMNS)}")
    positions = [header.index(column) for column in _COLUMNS]
    pairs = [_pair(fields, positions, len(header), f"{path}:{number}") for number, fields in rows]
    if not pairs:
        raise EmptyCorpusError(f"{path} has a header but no pairs; add rows")
    return pairs


def _hub_pairs(where: str) -> list[SentencePair]:
    pairs: list[SentencePair] = []
    for number, row in enumerate(reported(open_hub_dataset(where, default_split="test"), where)):
        missing = [column for column in _COLUMNS if column not in row]
        if missing:
            problem = f"has the columns {', '.join(map(str, row))}, without {' and '.join(missing)}"
            raise CorpusFormatError(f"{where} {problem}; give a dataset with {', '.join(_COLUMNS)}")
        fields = [str(row[column]) for column in _COLUMNS]
        pairs.append(_pair(fields, [0, 1, 2], len(_COLUMNS), f"{where}, row {number},"))
    if not pairs:
        raise EmptyCorpusError(f"{where} has no pairs; name another split")
    return pairs


def _pair(fields: list[str], positions: list[int], width: int, where: str) -> SentencePair:
    if len(fields) != width:
        raise CorpusFormatError(f"{where} has {len(fields)} columns where the header has {width}; correct the row")
    first, second, score = (fields[position] for position in positions)
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CorpusFormatError(f"{where} has the score {score!r}; a score is a finite number")
    return SentencePair(first, second, value)


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in numbered_lines(path):
        yield number, line.split("\t")


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    number = 0

    def lines() -> Iterator[str]:
        nonlocal number
        for at, line in numbered_lines(path):
            # Skipped blank lines come back: they may belong to a quoted sentence.
            yield from ["\n"] * (at - number - 1)
            number = at
            yield f"{line}\n"

    try:
        for fields in csv.reader(lines(), strict=True):
            if fields:
                yield number, fields
    except csv.Error as error:
        raise CorpusFormatError(f"{path}:{number} is not CSV ({error}); check its quotes") from None
