"""TREC runs and relevance judgments: read with every line checked, written all or not at all."""

from __future__ import annotations

import math
import re
import reprlib
from pathlib import Path

from llama2vec.data.text.lines import columns_in, finite_score, numbered_lines
from llama2vec.errors import RunFormatError
from llama2vec.files import FileKind, write_output
from llama2vec.records import Run

# ASCII white space only, as trec_eval splits: an id may contain a no-break space.
_FIELD = re.compile(r"[^ \t\r\f\v]+")
# Also no byte order mark, which readers drop, and no half surrogate pair, which UTF-8 cannot encode.
_NOT_IN_AN_ID = re.compile(r"[ \t\n\r\f\v\ufeff\ud800-\udfff]")
_GAIN = re.compile(r"[+-]?[0-9]{1,7}")
_MOST_GAIN = 1_000_000
"""Evaluation reserves memory in proportion to the largest gain: 0.8 GB for 100 million, measured with ir_measures."""
_GAIN_HEADERS = frozenset({"score", "relevance", "rel", "label", "gain", "grade"})


RUN_FILE = FileKind("a TREC run", rb"[^ \t\n]+ Q0 [^ \t\n]+ \d+ \S+ [^ \t\n]+\n")


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Return relevance judgments: query id → passage id → gain.

    Reads BEIR's three tab-separated columns (``query-id  corpus-id  score``, with or without a header) and TREC's
    four (``query  0  passage  gain``), plain or gzip (``.gz``). Negative gains are kept.

    Raises:
        RunFormatError: No such file, no judgment, or a faulty line.
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    columns = 0
    for number, line in numbered_lines(path, RunFormatError):
        tabbed = line.split("\t")
        # In tab-separated files an id may contain spaces; TREC's columns are separated by any white space.
        fields = tabbed if len(tabbed) == 3 else _FIELD.findall(line)
        if not columns:
            columns = len(fields)
            if columns == 3 and fields[2].lower() in _GAIN_HEADERS:
                continue
        if len(fields) != columns or columns not in (3, 4):
            raise RunFormatError(
                f"{path}:{number} has {columns_in(fields)}; write query-id, corpus-id, score (BEIR) or "
                "query, 0, passage, gain (TREC)"
            )
        query_id, passage_id, gain = fields[0], fields[-2], _gain(fields[-1], f"{path}:{number}")
        if not query_id or not passage_id:
            raise RunFormatError(f"{path}:{number} has an empty id; name both the query and the passage")
        if qrels.setdefault(query_id, {}).setdefault(passage_id, gain) != gain:
            before = qrels[query_id][passage_id]
            raise RunFormatError(
                f"{path}:{number} gives passage {passage_id!r} of query {query_id!r} the gain {gain}, an earlier line "
                f"{before}; keep one"
            )
    if not qrels:
        raise RunFormatError(f"{path} contains no judgments; give a BEIR or TREC qrels file")
    return qrels


def read_run(path: str | Path) -> Run:
    """Return a TREC run: columns ``query Q0 passage rank score tag`` separated by white space, plain or gzip.

    As in trec_eval, scores decide the order and ranks are ignored. The tag is the first line's.

    Raises:
        RunFormatError: No such file, no line, or a faulty one.
    """
    path = Path(path)
    results: dict[str, dict[str, float]] = {}
    tag: str | None = None
    for number, line in numbered_lines(path, RunFormatError):
        fields = _FIELD.findall(line)
        if len(fields) != 6:
            raise RunFormatError(f"{path}:{number} has {columns_in(fields)}; write query Q0 passage rank score tag")
        query_id, _, passage_id, _, score, this_tag = fields
        scores = results.setdefault(query_id, {})
        if passage_id in scores:
            problem = f"returns passage {passage_id!r} for query {query_id!r} a second time"
            raise RunFormatError(f"{path}:{number} {problem}; keep one")
        scores[passage_id] = finite_score(score, f"{path}:{number}", RunFormatError)
        tag = tag or this_tag
    if tag is None:
        raise RunFormatError(f"{path} is empty; give a run with at least one line")
    return Run(results, tag)


def write_run(run: Run, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a TREC run; ranks count from 1 in the order of :meth:`Run.ranking`.

    The write is atomic. Scores keep every digit, so :func:`read_run` returns the same run. Queries without results
    get no line.

    Raises:
        OutputExistsError: The file exists and ``overwrite`` is not given, or it holds anything but a run.
        DataError: No result, a score that is not finite, an id or tag that is not one word, or a full disk.
    """
    path = Path(path)
    if not any(run.results.values()):
        raise RunFormatError(f"{path}: the run {run.tag!r} has no results to write; no query found a passage")
    check_id(run.tag, "tag", path)
    lines: list[str] = []
    for query_id in run.results:
        check_id(query_id, "query", path)
        for rank, (passage_id, score) in enumerate(run.ranking(query_id), start=1):
            check_id(passage_id, "passage", path)
            if not math.isfinite(score):
                problem = f"passage {passage_id!r} of query {query_id!r} has the score {score}"
                raise RunFormatError(f"{path}: {problem}; scores must be finite")
            lines.append(f"{query_id} Q0 {passage_id} {rank} {float(score)!r} {run.tag}\n")
    write_output(path, "".join(lines), RUN_FILE, overwrite=overwrite)


def _gain(text: str, where: str) -> int:
    if not _GAIN.fullmatch(text) or abs(int(text)) > _MOST_GAIN:
        problem = f"has the gain {reprlib.repr(text)}"
        raise RunFormatError(f"{where} {problem}; a gain is a whole number from -{_MOST_GAIN:,} to {_MOST_GAIN:,}")
    return int(text)


def check_id(name: str, kind: str, where: str | Path) -> None:
    """Raise RunFormatError for an id or tag that TREC's columns cannot hold: it must be one word."""
    if not name or _NOT_IN_AN_ID.search(name):
        reason = "holds a space or a character that is not valid Unicode" if name else "is empty"
        raise RunFormatError(f"{where}: the {kind} {name!a} {reason}; TREC files need one word: rename it")
