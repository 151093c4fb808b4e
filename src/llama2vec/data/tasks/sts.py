"""Sentence pairs with human similarity scores (STS)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from llama2vec.data.corpus.sources import open_hub_dataset, reported
from llama2vec.data.text.lines import columns_in, finite_score, numbered_lines
from llama2vec.errors import CorpusFormatError, EmptyCorpusError, EvaluationError
from llama2vec.records import SentencePair
from llama2vec.terminal import counted

_COLUMNS = ("sentence1", "sentence2", "score")


def read_sentence_pairs(path: str | Path) -> list[SentencePair]:
    """Return the pairs of a TSV file, plain or gzip, whose header names sentence1, sentence2 and score; no quoting.

    The columns may come in any order; others are ignored. ``hf:NAME[:CONFIG][:SPLIT]`` reads the same columns of a
    Hugging Face dataset, by default from its ``test`` split.

    Raises:
        CorpusFormatError: No such source, another header, or a faulty row: the message names file and line.
        EmptyCorpusError: No pair.
        EvaluationError: A single pair, or scores that are all equal: nothing could correlate with them.
        MissingDependencyError: ``hf:`` without the package datasets.
    """
    where = str(path)
    if where.startswith("hf:"):
        rows = _hub_rows(where)
    elif where.lower().endswith((".tsv", ".tsv.gz")):
        rows = _table_rows(Path(path))
    else:
        raise CorpusFormatError(f"{path}: unknown kind of sentence-pair file; give a .tsv")
    pairs = [_pair(row, place) for place, row in rows]
    if not pairs:
        raise EmptyCorpusError(f"{path} has no pairs; give rows below a header with {', '.join(_COLUMNS)}")
    if len(pairs) == 1:
        raise EvaluationError(f"{path} has a single pair, and no correlation is defined for one; give two or more")
    if len({pair.score for pair in pairs}) == 1:
        same = f"all {counted(len(pairs), 'pair')} have the score {pairs[0].score:g}"
        raise EvaluationError(f"{path}: {same}, so no correlation is defined; give scores that differ")
    return pairs


def _hub_rows(where: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, row in enumerate(reported(open_hub_dataset(where, default_split="test"), where)):
        _check_columns(list(row), f"{where}, row {number}, has the columns")
        yield f"{where}, row {number},", row


def _table_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    header: list[str] = []
    for number, line in numbered_lines(path):
        fields, where = line.split("\t"), f"{path}:{number}"
        if not header:
            header = fields
            _check_columns(header, f"{where} has the header")
        elif len(fields) != len(header):
            problem = f"has {columns_in(fields)} where the header has {len(header)}"
            raise CorpusFormatError(f"{where} {problem}; correct the row")
        else:
            yield where, dict(zip(header, fields, strict=True))


def _check_columns(names: list[str], where: str) -> None:
    missing = [column for column in _COLUMNS if column not in names]
    if missing:
        problem = f"{', '.join(map(str, names))}, without {' and '.join(missing)}"
        raise CorpusFormatError(f"{where} {problem}; name the columns {', '.join(_COLUMNS)}")


def _pair(row: Mapping[str, object], where: str) -> SentencePair:
    first, second = (_text(row, column, where) for column in _COLUMNS[:2])
    return SentencePair(first, second, finite_score(str(row["score"]), where))


def _text(row: Mapping[str, object], column: str, where: str) -> str:
    text = row[column]
    if not isinstance(text, str):
        raise CorpusFormatError(f"{where} has no text in {column} ({text!r}); correct or remove the row")
    return text
