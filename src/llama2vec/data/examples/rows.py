"""One row of labeled training data, parsed into a TrainingExample or a list of its problems."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from llama2vec.data.text.words import text_key
from llama2vec.records import Passage, TrainingExample
from llama2vec.terminal import counted

ProblemKind = Literal[
    "unreadable", "unknown field", "wrong type", "empty query", "no positive", "empty text", "overlap",
    "scores", "ids", "unknown id", "too few negatives",
]  # fmt: skip

SUCH_AS = '{"query": "…", "pos": ["…"], "neg": ["…"]}'

_ALIASES = {
    "anchor": "query", "positive": "pos", "negative": "neg", "pos_id": "pos_ids", "neg_id": "neg_ids",
}  # fmt: skip
_TEVATRON_ALIASES = {"positive_passages": "pos", "negative_passages": "neg"}
_NUMBERED_NEGATIVE = re.compile(r"negative_(\d+)")
_OPENING = 64  # Characters in which a first word is looked for
# FlagEmbedding's fields that change its prompts. Models here have their own, so only values without effect may stay.
_WITHOUT_EFFECT: Mapping[str, tuple[object, ...]] = {"prompt": (None, ""), "type": (None, "", "normal")}
_USUAL_NAMES = {
    "question": "query", "q": "query", "answer": "pos", "passage": "pos", "document": "pos", "context": "pos",
    "text": "pos", "response": "pos", "hard_negative": "neg", "hard_negatives": "neg", "negatives": "neg",
    "positives": "pos", "id": "query_id", "qid": "query_id",
}  # fmt: skip
"""Names in other data, which spelling leads elsewhere: ``question`` is nearest to ``query_id``."""
_REMEDIES = {
    "string_type": "write a string",
    "list_type": "write a list",
    "float_type": "write a finite number",
    "string_pattern_mismatch": "an id is not empty",
    "model_type": 'write objects such as {"docid": "1", "title": "…", "text": "…"}',
    "missing": "write a text",
}


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_Id = Annotated[str, BeforeValidator(_as_text), StringConstraints(pattern=r"\S")]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True)

    query: str
    pos: list[str] = Field(default_factory=list)
    neg: list[str] = Field(default_factory=list)
    pos_scores: list[float] = Field(default_factory=list)
    neg_scores: list[float] = Field(default_factory=list)
    query_id: _Id = ""
    pos_ids: list[_Id] = Field(default_factory=list)
    neg_ids: list[_Id] = Field(default_factory=list)


class _TevatronPassage(BaseModel):
    model_config = ConfigDict(strict=True)

    text: str
    title: str | None = None
    docid: _Id = ""


class _TevatronFields(BaseModel):
    model_config = ConfigDict(strict=True)

    query: str
    pos: list[_TevatronPassage]
    neg: list[_TevatronPassage] = []
    query_id: _Id = ""


_PLAIN = ("query", "pos", "neg", *_ALIASES, "pos_scores", "neg_scores", "query_id", "pos_ids", "neg_ids")
_TEVATRON = ("query_id", "query", "positive_passages", "negative_passages", "answers")


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

    def row(self, example: TrainingExample | None = None) -> ExampleRow:
        """Return the example if it has no problem, else the problems."""
        if example and not self.found:
            self.found += example_problems(example, self.where)
        return ExampleRow(self.where, None if self.found else example, tuple(self.found))


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
        _check_names(values, problems)
    try:
        if tevatron:
            tevatron_fields = _TevatronFields.model_validate(_renamed(values, problems))
            return problems.row(_tevatron_example(tevatron_fields, problems))
        found = _Fields.model_validate(_renamed(values, problems))
    except ValidationError as error:
        for one in error.errors(include_url=False):
            _add_invalid(dict(one), values, problems)
        return problems.row()
    return problems.row(
        TrainingExample(
            found.query, tuple(found.pos), tuple(found.neg), tuple(found.pos_scores), tuple(found.neg_scores),
            found.query_id, tuple(found.pos_ids), tuple(found.neg_ids),
        )
    )  # fmt: skip


def unread_fields(values: Mapping[str, object]) -> list[str]:
    """Return the fields of a row that :func:`parse_row` ignores or reports."""
    known = _TEVATRON if "positive_passages" in values else _PLAIN
    return [name for name in map(str, values) if name not in known and not _NUMBERED_NEGATIVE.fullmatch(name)]


def _check_names(values: Mapping[str, object], problems: Problems) -> None:
    known = _TEVATRON if "positive_passages" in values else _PLAIN
    for name in unread_fields(values):
        if name not in _WITHOUT_EFFECT:
            usual = [_USUAL_NAMES[name]] if _USUAL_NAMES.get(name) in known else []
            near = usual or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
            problems.add("unknown field", f"has the unknown field {name!r}; {hint}")
        elif values[name] not in _WITHOUT_EFFECT[name]:
            what = f"has the {name} {reprlib.repr(values[name])}, which has no effect here"
            problems.add("unknown field", f'{what}; remove "{name}" from the row')


def _renamed(values: Mapping[str, object], problems: Problems) -> dict[str, object]:
    """Return a row under the names of ``query``/``pos``/``neg``, without absent values."""
    found: dict[str, object] = {}
    numbered: list[tuple[int, object]] = []
    first: dict[str, str] = {}
    for name, value in values.items():
        if value is None:
            continue
        if match := _NUMBERED_NEGATIVE.fullmatch(str(name)):
            numbered.append((int(match[1]), value))
            continue
        new = (_TEVATRON_ALIASES if "positive_passages" in values else _ALIASES).get(name, name)
        if new in found:
            problems.add("wrong type", f'has both "{first[new]}" and "{name}"; keep one of them')
        # "pos" and "neg" are lists in every known tool; the other names may hold a single text or id.
        wrapped = name in _ALIASES and new != "query" and isinstance(value, (str, int))
        found[new] = [value] if wrapped else value
        first[new] = name
    if numbered:
        earlier = found.get("neg", [])
        texts = [value for _, value in sorted(numbered, key=lambda pair: pair[0])]
        found["neg"] = [*(earlier if isinstance(earlier, list) else [earlier]), *texts]
    if found.get("query_id") == "":
        del found["query_id"]
    return found


def _add_invalid(error: dict[str, Any], values: Mapping[str, object], problems: Problems) -> None:
    """Add what pydantic found, under the name that the row itself uses."""
    field_name, *inside = error["loc"]
    names = _ALIASES | _TEVATRON_ALIASES
    name = next((name for name in values if names.get(name, name) == field_name), field_name)
    if error["type"] == "missing" and name not in values:
        known = ", ".join(map(str, list(values)[:6])) or "nothing"
        problems.add("empty query", f'has no "{name}" (only {known}); write objects such as {SUCH_AS}')
        return
    value = reprlib.repr(None if error["type"] == "missing" and not inside else error["input"])
    place = f"has {value} in {name} (number {inside[0] + 1})" if inside else f"has the {name} {value}"
    kind: ProblemKind = "ids" if field_name.endswith(("id", "ids")) else "wrong type"
    problems.add(kind, f"{place}; {_REMEDIES.get(error['type'], error['msg'])}")


def _tevatron_example(found: _TevatronFields, problems: Problems) -> TrainingExample:
    sides = []
    for name, items in (("positive_passages", found.pos), ("negative_passages", found.neg)):
        ids = tuple(item.docid for item in items)
        if any(ids) and not all(ids):
            place = f"{name} (number {ids.index('') + 1})"
            problems.add("ids", f"has no docid in {place}; name every passage or omit the ids")
        texts = tuple(Passage("", item.text, item.title or "").full_text for item in items)
        sides.append((texts, ids if all(ids) else ()))
    (positives, positive_ids), (negatives, negative_ids) = sides
    return TrainingExample(
        found.query, positives, negatives, query_id=found.query_id, positive_ids=positive_ids, negative_ids=negative_ids
    )


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
    try:
        "".join((example.query, *example.positives, *example.negatives, example.query_id)).encode()
        "".join((*example.positive_ids, *example.negative_ids)).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        problems.add("unreadable", f"has half a surrogate pair ({half}) in a text or id; repair it")
    return problems.found


def _check_side(
    problems: Problems, side: str, texts: Sequence[str], scores: Sequence[float], ids: Sequence[str]
) -> None:
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            problems.add("empty text", f'has an empty text in "{side}" (number {number}); remove it')
    if scores and len(scores) != len(texts):
        problems.add(
            "scores", f'has {len(scores)} {side}_scores for {counted(len(texts), "text")} in "{side}"; give one each'
        )
    if not all(map(math.isfinite, scores)):
        problems.add("scores", f"has {reprlib.repr(list(scores))} as {side}_scores; scores are finite numbers")
    if ids and len(ids) != len(texts):
        problems.add("ids", f'has {len(ids)} {side}_ids for {counted(len(texts), "text")} in "{side}"; give one each')
    if not all(map(str.strip, ids)):
        problems.add("ids", f"has an empty id among its {side}_ids; name every passage or omit the ids")


def _check_overlap(example: TrainingExample, problems: Problems) -> None:
    texts, ids = set(map(text_key, example.positives)), set(example.positive_ids)
    first_words = set(map(_first_word, texts))
    for number, text in enumerate(example.negatives):
        # In ASCII the first word alone tells most texts apart, without the key of a whole passage.
        differs = text.isascii() and _first_word(text) not in first_words
        key = "" if differs else text_key(text)
        if key and key in texts:
            what = f"({reprlib.repr(text)}, number {number + 1})"
            problems.add("overlap", f'has a negative {what} that is also a positive; remove it from "neg"')
        elif number < len(example.negative_ids) and example.negative_ids[number] in ids:
            what = f"the id {example.negative_ids[number]!r}"
            problems.add("overlap", f"has {what} among its positives and its negatives; remove the negative")


def _first_word(text: str) -> str:
    return next(iter(text.lstrip()[:_OPENING].lower().split(None, 1)), "")
