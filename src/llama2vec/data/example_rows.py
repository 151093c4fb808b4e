"""One row of labeled training data, parsed into a TrainingExample or a list of its problems."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llama2vec.data.lines import decode_line, raw_lines
from llama2vec.data.text_key import text_key
from llama2vec.errors import ExampleFormatError
from llama2vec.records import Passage, TrainingExample

ProblemKind = Literal[
    "unreadable", "unknown field", "wrong type", "empty query", "no positive", "empty text", "overlap",
    "scores", "ids", "unknown id", "too few negatives",
]  # fmt: skip

SUCH_AS = '{"query": "…", "pos": ["…"], "neg": ["…"]}'

_QUERY, _POSITIVES, _NEGATIVES = ("query", "anchor"), ("pos", "positive"), ("neg", "negative")
_POSITIVE_IDS, _NEGATIVE_IDS = ("pos_ids", "pos_id"), ("neg_ids", "neg_id")
_FIELDS = (
    *_QUERY, *_POSITIVES, *_NEGATIVES, "pos_scores", "neg_scores", "query_id", *_POSITIVE_IDS, *_NEGATIVE_IDS,
)  # fmt: skip
_TEVATRON_FIELDS = ("query_id", "query", "positive_passages", "negative_passages", "answers")
_NUMBERED_NEGATIVE = re.compile(r"negative_(\d+)")
# FlagEmbedding's fields that change its prompts. Models here have their own, so only values without effect may stay.
_WITHOUT_EFFECT: Mapping[str, tuple[object, ...]] = {"prompt": (None, ""), "type": (None, "", "normal")}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row cannot be used: its kind, its place (file and line), and one line of where, what, and what to do."""

    kind: ProblemKind
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """One row of a source: an example, or None and its problems."""

    where: str
    example: TrainingExample | None
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class Problems:
    """Collects the problems of one row."""

    where: str
    found: list[Problem] = field(default_factory=list)

    def add(self, kind: ProblemKind, text: str, where: str = "") -> None:
        """Add a problem; ``text`` follows the place: what is wrong, and what to do."""
        place = where or self.where
        self.found.append(Problem(kind, place, f"{place} {text}"))

    def row(self, example: TrainingExample) -> ExampleRow:
        """Return the example if it has no problem, else the problems."""
        if not self.found:
            self.found += example_problems(example, self.where)
        return ExampleRow(self.where, None if self.found else example, tuple(self.found))


def source_lines(path: Path) -> Iterator[tuple[str, str | Problem]]:
    """Yield (file and line, text or the Problem of a line that cannot be decoded), skipping blank lines.

    Raises:
        ExampleFormatError: No such file, or truncated gzip.
    """
    for number, raw in raw_lines(path, ExampleFormatError):
        where = f"{path}:{number}"
        try:
            line = decode_line(raw, path, number, ExampleFormatError)
        except ExampleFormatError as error:
            yield where, Problem("unreadable", where, str(error))
            continue
        if line and not line.isspace():
            yield where, line


# ------------------------------------------------------------------------------------------------------- parsing


def parse_row(values: Mapping[str, object], where: str, *, strict: bool = True) -> ExampleRow:
    """Parse an object with ``query``/``pos``/``neg``, ``anchor``/``positive``/``negative``, or Tevatron's fields.

    Args:
        values: Field name → value; None counts as absent.
        where: File and line.
        strict: Report unknown fields; False ignores them, for data that the user cannot edit.
    """
    problems = Problems(where)
    tevatron = "positive_passages" in values
    if strict:
        _check_names(values, _TEVATRON_FIELDS if tevatron else _FIELDS, problems)
    read = _tevatron_example if tevatron else _plain_example
    return problems.row(read(values, problems))


def unread_fields(values: Mapping[str, object]) -> list[str]:
    """Return the fields of a row that :func:`parse_row` ignores or reports."""
    known = _TEVATRON_FIELDS if "positive_passages" in values else _FIELDS
    return [name for name in map(str, values) if name not in known and not _NUMBERED_NEGATIVE.fullmatch(name)]


def _check_names(values: Mapping[str, object], known: Sequence[str], problems: Problems) -> None:
    for name in unread_fields(values):
        if name in _WITHOUT_EFFECT:
            if values[name] not in _WITHOUT_EFFECT[name]:
                value = reprlib.repr(values[name])
                problems.add(
                    "unknown field", f'has the {name} {value}, which has no effect here; remove "{name}" from the row'
                )
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        problems.add("unknown field", f"has the unknown field {name!r}; {hint}")


def _plain_example(values: Mapping[str, object], problems: Problems) -> TrainingExample:
    negatives = list(_texts(values, _NEGATIVES, problems))
    numbered = sorted((int(match[1]), name) for name in values if (match := _NUMBERED_NEGATIVE.fullmatch(str(name))))
    for _, name in numbered:
        negatives += _texts(values, (name,), problems)
    return TrainingExample(
        query=_query(values, problems),
        positives=_texts(values, _POSITIVES, problems),
        negatives=tuple(negatives),
        positive_scores=_scores(values, "pos_scores", problems),
        negative_scores=_scores(values, "neg_scores", problems),
        query_id=_id(values.get("query_id"), "query_id", problems),
        positive_ids=_ids(values, _POSITIVE_IDS, problems),
        negative_ids=_ids(values, _NEGATIVE_IDS, problems),
    )


def _tevatron_example(values: Mapping[str, object], problems: Problems) -> TrainingExample:
    positives = _passages(values, "positive_passages", problems)
    negatives = _passages(values, "negative_passages", problems)
    return TrainingExample(
        query=_query(values, problems),
        positives=tuple(passage.full_text for passage in positives),
        negatives=tuple(passage.full_text for passage in negatives),
        query_id=_id(values.get("query_id"), "query_id", problems),
        positive_ids=_all_or_none(positives),
        negative_ids=_all_or_none(negatives),
    )


def _all_or_none(passages: Sequence[Passage]) -> tuple[str, ...]:
    ids = tuple(passage.id for passage in passages)
    return ids if all(ids) else ()


def _named(values: Mapping[str, object], names: Sequence[str], problems: Problems) -> tuple[str, object]:
    """Return which of several names the row uses, and its value; None if it uses none."""
    given = [name for name in names if values.get(name) is not None]
    if len(given) > 1:
        problems.add("wrong type", f'has both "{given[0]}" and "{given[1]}"; keep one of them')
    return (given[0], values[given[0]]) if given else (names[0], None)


def _query(values: Mapping[str, object], problems: Problems) -> str:
    name, value = _named(values, _QUERY, problems)
    if isinstance(value, str):
        return value
    if value is None and name not in values:
        known = ", ".join(map(str, list(values)[:6])) or "nothing"
        problems.add("empty query", f'has no "query" (only {known}); write objects such as {SUCH_AS}')
    else:
        problems.add("wrong type", f"has the query {reprlib.repr(value)}; a query is a string")
    return ""


def _texts(values: Mapping[str, object], names: Sequence[str], problems: Problems) -> tuple[str, ...]:
    name, value = _named(values, names, problems)
    if value is None:
        return ()
    # "positive" and "negative" may be single texts; "pos" and "neg" are lists in every known tool.
    if isinstance(value, str) and name not in ("pos", "neg"):
        return (value,)
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        shown = reprlib.repr(value)
        problems.add("wrong type", f'has the {name} {shown}; write a list of strings: "{name}": ["…"]')
        return ()
    return tuple(value)


def _scores(values: Mapping[str, object], name: str, problems: Problems) -> tuple[float, ...]:
    value = values.get(name)
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(score, (int, float)) and not isinstance(score, bool) for score in value
    ):
        problems.add("wrong type", f"has the {name} {reprlib.repr(value)}; write a list of numbers")
        return ()
    try:
        return tuple(float(score) for score in value)
    except OverflowError:
        problems.add("scores", f"has a score in {name} that is too large; scores are finite numbers")
        return ()


def _ids(values: Mapping[str, object], names: Sequence[str], problems: Problems) -> tuple[str, ...]:
    name, value = _named(values, names, problems)
    if value is None:
        return ()
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_id(item, name, problems) for item in items)


def _id(value: object, name: str, problems: Problems) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None and name == "query_id":
        return ""
    if isinstance(value, str) and (value.strip() or (name == "query_id" and not value)):
        return value
    problems.add("ids", f"has the {name} {reprlib.repr(value)}; an id is a string that is not empty, or a whole number")
    return ""


def _passages(values: Mapping[str, object], name: str, problems: Problems) -> list[Passage]:
    items = values.get(name)
    if items is None:
        return []
    shape = f'"{name}": [{{"docid": "1", "title": "…", "text": "…"}}]'
    if not isinstance(items, (list, tuple)):
        problems.add("wrong type", f"has the {name} {reprlib.repr(items)}; write {shape}")
        return []
    passages: list[Passage] = []
    for item in items:
        text, title = (item.get("text"), item.get("title") or "") if isinstance(item, Mapping) else (None, "")
        if not isinstance(item, Mapping) or not isinstance(text, str) or not isinstance(title, str):
            problems.add("wrong type", f"has {reprlib.repr(item)} among its {name}; write {shape}")
            continue
        passage_id = item.get("docid")
        passages.append(Passage("" if passage_id is None else _id(passage_id, "docid", problems), text, title))
    return passages


# ------------------------------------------------------------------------------------------------------ checking


def example_problems(example: TrainingExample, where: str) -> list[Problem]:
    """Return the problems that make an example unusable for training.

    These are: an empty query or text; no positive; scores or ids that do not match the texts; scores on one side only;
    a score that is not finite; half a surrogate pair; a negative with the id or the text of a positive.
    """
    problems = Problems(where)
    if not example.query.strip():
        problems.add("empty query", "has an empty query; write one or delete the row")
    if not example.positives:
        problems.add("no positive", 'has no positive; give "pos" at least one text or delete the row')
    if example.query_id.isspace():
        problems.add("ids", f"has the query_id {example.query_id!r}; an id is not empty")
    _check_side(problems, "pos", example.positives, example.positive_scores, example.positive_ids)
    _check_side(problems, "neg", example.negatives, example.negative_scores, example.negative_ids)
    if example.negatives and bool(example.positive_scores) != bool(example.negative_scores):
        given, absent = ("pos", "neg") if example.positive_scores else ("neg", "pos")
        problems.add("scores", f"has {given}_scores without {absent}_scores; give both or neither")
    _check_overlap(example, problems)
    _check_unicode(example, problems)
    return problems.found


def _check_side(
    problems: Problems, side: str, texts: Sequence[str], scores: Sequence[float], ids: Sequence[str]
) -> None:
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            problems.add("empty text", f'has an empty text in "{side}" (number {number}); remove it')
    if scores and len(scores) != len(texts):
        problems.add("scores", f'has {len(scores)} {side}_scores for {len(texts)} texts in "{side}"; give one each')
    if not all(map(math.isfinite, scores)):
        problems.add("scores", f"has {reprlib.repr(list(scores))} as {side}_scores; scores are finite numbers")
    if ids and len(ids) != len(texts):
        problems.add("ids", f'has {len(ids)} {side}_ids for {len(texts)} texts in "{side}"; give one each')
    if not all(map(str.strip, ids)):
        problems.add("ids", f"has an empty id among its {side}_ids; name every passage or omit the ids")


def _check_overlap(example: TrainingExample, problems: Problems) -> None:
    texts, ids = set(map(text_key, example.positives)), set(example.positive_ids)
    for number, text in enumerate(example.negatives):
        if text_key(text) and text_key(text) in texts:
            what = f"({reprlib.repr(text)}, number {number + 1})"
            problems.add("overlap", f'has a negative {what} that is also a positive; remove it from "neg"')
        elif number < len(example.negative_ids) and example.negative_ids[number] in ids:
            what = f"the id {example.negative_ids[number]!r}"
            problems.add("overlap", f"has {what} among its positives and its negatives; remove the negative")


def _check_unicode(example: TrainingExample, problems: Problems) -> None:
    try:
        "".join((example.query, *example.positives, *example.negatives)).encode()
        "".join((example.query_id, *example.positive_ids, *example.negative_ids)).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        problems.add("unreadable", f"has half a surrogate pair ({half}) in a text or id; repair it")
