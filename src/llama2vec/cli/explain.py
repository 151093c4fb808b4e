"""``llama2vec explain``."""

from __future__ import annotations

import dataclasses
import json as json_module
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.options import ENCODER_KEYS, Device, Dtype, EncoderSets, Prompts, known_language, load_encoder
from llama2vec.cli.settings_options import lists_settings
from llama2vec.errors import ConfigError
from llama2vec.tables import padded
from llama2vec.terminal import counted, display, screen_width, width_of

if TYPE_CHECKING:
    from llama2vec.explain.explanation import Explanation
    from llama2vec.records import Side

_BAR = 24


@lists_settings(*ENCODER_KEYS)
def explain_command(
    model: Annotated[str, typer.Argument(help="Saved encoder, or any causal LM.")],
    query: Annotated[str, typer.Option("--query", "-q", help="The question.")],
    passage: Annotated[str, typer.Option("--passage", "-p", help="The text to compare with the question.")],
    top: Annotated[int, typer.Option(min=1, help="Words to show per embedding.")] = 12,
    evidence: Annotated[
        bool,
        typer.Option(
            "--evidence", help="Also show how much the dense score drops when each sentence of the passage is removed."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    language: Annotated[str, typer.Option(help="Language of stop words and sentence ends: en, de, …")] = "en",
    prompts: Prompts = None,
    sets: EncoderSets = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Show which words each of two embeddings encodes, and which of them explain the match."""
    for option, text in (("--query", query), ("--passage", passage)):
        if not text.strip():
            raise ConfigError(f"{option} is empty; give a text")
    known_language(language)
    encoder = load_encoder(model, dtype, device, prompts, sets)
    from llama2vec.explain.explanation import Explainer
    from llama2vec.model.lengths import NOUNS, warn_of_limit

    given: dict[Side, str] = {"query": query, "passage": passage}
    for side, text in given.items():
        remedy = f"raise the limit with --set {side}_max_tokens=N"
        warn_of_limit(encoder.cut([text], side), 1, remedy, noun=NOUNS[side])
    explanation = Explainer(encoder, language=language).explain(query, passage, top=top, evidence=evidence)
    if json:
        content: dict[str, object] = {"query": query, "passage": passage}
        for field in dataclasses.fields(explanation):
            value = getattr(explanation, field.name)
            content[field.name] = [item._asdict() for item in value] if isinstance(value, list) else value
        typer.echo(json_module.dumps(content, indent=2, ensure_ascii=False))
    else:
        display(*explanation_lines(explanation, top, screen_width()))


def explanation_lines(explanation: Explanation, top: int, width: int | None = None) -> list[str]:
    """Return an explanation as lines of text, with its bars within ``width`` columns."""
    room = width or sys.maxsize
    lines = [f"dense cosine {explanation.cosine:.3f}, word score {explanation.word_score:.3f}", ""]
    asked, stands = ("query stands for", explanation.query_words), ("passage stands for", explanation.passage_words)
    for most in (_BAR, _BAR // 2, _BAR // 4):
        first, second = bars(*asked, most), bars(*stands, most)
        left = max(map(width_of, first)) + 4
        if left + max(map(width_of, second)) <= room:
            sides = zip_longest(first, second, fillvalue="")
            lines += [f"{padded(one, left)}{other}".rstrip() for one, other in sides]
            break
    else:
        lines += [*bars(*asked), "", *bars(*stands)]
    rows = [(word.word, word.contribution) for word in explanation.shared[:top]]
    lines += ["", *bars("the match: query weight × passage weight", rows)]
    if rest := explanation.shared[top:]:
        lines.append(f"  and {sum(word.contribution for word in rest):.3f} from {counted(len(rest), 'more word')}")
    if explanation.evidence:
        lines += ["", "dense cosine lost without the sentence"]
        lines += [f"  {drop:+.3f}  {' '.join(text.split())}" for text, drop in explanation.evidence]
    return lines


def bars(title: str, rows: Sequence[tuple[str, float]], most: int = _BAR) -> list[str]:
    """Return a title and one line per row: name, value, and a bar, ``most`` columns for the largest value.

    >>> bars("words", [("wing", 0.5), ("stall", 0.25)])[1:]
    ['  wing   0.500 ████████████████████████', '  stall  0.250 ████████████']
    """
    if not rows:
        return [title, "  (nothing)"]
    width, full = max(width_of(name) for name, _ in rows), max(value for _, value in rows)
    return [title, *(f"  {padded(name, width)}  {one:.3f} {'█' * round(most * one / full)}" for name, one in rows)]
