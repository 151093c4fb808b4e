"""Training examples from a corpus without labels: an LLM writes questions, and filters keep those that fit."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama2vec.artifact import check_claim, claim
from llama2vec.config import ModelSettings
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.corpus.reading import how_read
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.examples.reported import (
    check_inputs_apart,
    check_kept_apart,
    check_reported,
    finish_reported,
    reported_kind,
    settle_report,
)
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.text.words import count_words
from llama2vec.errors import DataError, EmptyCorpusError
from llama2vec.generate.filters import REASONS, Refused, Written, filtered
from llama2vec.generate.settings import FILTERS, GenerateSettings
from llama2vec.kept import KEPT_QUESTIONS, discard_kept, keep, kept_path, read_kept
from llama2vec.manifest import build_manifest, canonical_json
from llama2vec.model.local import fetched
from llama2vec.model.source import ModelSource, resolve_model
from llama2vec.records import Passage, TrainingExample
from llama2vec.terminal import ProgressReporter, counted

if TYPE_CHECKING:
    from llama2vec.model.backbone import Backbone

logger = logging.getLogger(__name__)

_GENERATED = reported_kind("a file of generated examples")
_SHOWN = 5


@dataclass(frozen=True)
class GenerationInputs:
    """What :func:`generate_to_file` reads."""

    corpus: str  # Documents, or any other corpus
    model: ModelSettings  # The LLM that writes, and how it is loaded
    splitter: Splitter | None = None  # Splits the documents of the corpus; None = it is read as it is
    reading: ReadingSettings = field(default_factory=ReadingSettings)  # How the corpus is read
    report: ReadingReport | None = None  # Takes what of the documents was read


class GenerationReport:
    """How many questions were written, and what became of them."""

    def __init__(self, passages: int, asked: int, kept: int, refused: Sequence[Refused]) -> None:
        self.passages, self.asked, self.kept = passages, asked, kept
        self.refused, self.examples = Counter[str](), defaultdict[str, list[str]](list)
        for (question, _), reason in refused:
            self.refused[reason] += 1
            if len(self.examples[reason]) < _SHOWN:
                self.examples[reason].append(question)
        self.seconds = 0.0

    def summary(self) -> str:
        """Return the counts as a few lines of text."""
        written = self.kept + self.refused.total()
        asked = f"{self.asked:,} of {counted(self.passages, 'passage')}"
        lines = [f"{counted(written, 'question')} for {asked}; {self.kept:,} kept"]
        lines += [f"refused {count:9,}  {reason}: {why}" for reason, why, count in self._reasons()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        reasons = {
            reason: {"why": why, "questions": count, "examples": self.examples[reason]}
            for reason, why, count in self._reasons()
        }
        return {
            "passages": self.passages, "asked": self.asked, "kept": self.kept, "refused": reasons,
            "seconds": self.seconds,
        }  # fmt: skip

    def _reasons(self) -> Iterator[tuple[str, str, int]]:
        return ((name, why, self.refused[name]) for name, why in REASONS.items() if self.refused[name])


def generate(
    passages: Sequence[Passage], load: Callable[[], Backbone], settings: GenerateSettings, kept_in: Path | None = None
) -> tuple[list[TrainingExample], GenerationReport]:
    """Write questions for passages and return those that pass the filters, each with its passage as the positive.

    Args:
        passages: The whole corpus.
        load: Loads the LLM that writes; not called where all questions are in ``kept_in``.
        settings: Prompt, sampling and filters.
        kept_in: File for the questions; a call that asks the same resumes from it. None = in memory alone.

    Raises:
        EmptyCorpusError: No passage has ``passage_min_words`` words.
        DataError: No question is left.
        ModelError: The LLM has no output head.
    """
    rows = _asked_rows(passages, settings)
    written = _questions_so_far(kept_in, rows, settings)
    if len(written) < len(rows) * settings.questions:
        written += _new_questions(passages, rows, len({one.row for one in written}), load(), settings, kept_in)
    kept, refused = filtered(written, passages, settings)
    report = GenerationReport(len(passages), len(rows), len(kept), refused)
    if not kept:
        most = max(report.refused, key=lambda reason: report.refused[reason])
        raise DataError(
            f"the LLM wrote {counted(len(written), 'question')} and none is left; most were refused because the "
            f"question {REASONS[most]}, such as {report.examples[most][0]!r}: take an LLM that follows instructions, "
            "or loosen the filters"
        )
    return [_example(one, passages[one.row]) for one in kept], report


def _new_questions(
    passages: Sequence[Passage],
    rows: Sequence[int],
    first: int,
    backbone: Backbone,
    settings: GenerateSettings,
    kept_in: Path | None,
) -> list[Written]:
    """Let the LLM write the questions of all rows from number ``first`` on."""
    from llama2vec.generate.writer import QuestionWriter
    from llama2vec.model.batching import chunks

    writer, written = QuestionWriter(backbone, settings), list[Written]()
    writer.warn_of_cut([passages[row].full_text for row in rows])
    with ProgressReporter("generating", "passage") as progress:
        progress.start(len(rows), first)
        for batch in chunks(rows[first:], settings.batch_size):
            found = writer.write([passages[row].full_text for row in batch], settings.seed + batch[0])
            new = [
                Written(question, row) for row, questions in zip(batch, found, strict=True) for question in questions
            ]
            if kept_in is not None:
                keep(kept_in, ([one.row, one.question] for one in new))
            written += new
            progress.advance(len(batch))
    return written


def _example(one: Written, passage: Passage) -> TrainingExample:
    return TrainingExample(query=one.question, positives=(passage.full_text,), positive_ids=(passage.id,))


def _asked_rows(passages: Sequence[Passage], settings: GenerateSettings) -> list[int]:
    """Return the rows of the passages that get questions, spread over the corpus."""
    rows = [row for row, one in enumerate(passages) if count_words(one.text) >= settings.passage_min_words]
    if not rows:
        raise EmptyCorpusError(
            f"no passage has {settings.passage_min_words} words to ask about; lower generate.passage_min_words"
        )
    most = settings.passages
    return rows if not most or most >= len(rows) else [rows[place * len(rows) // most] for place in range(most)]


def _questions_so_far(path: Path | None, rows: Sequence[int], settings: GenerateSettings) -> list[Written]:
    """Return the questions of the whole batches that an earlier call wrote, and leave only these in the file."""
    if path is None:
        return []

    def usable(entries: Sequence[Any]) -> int:
        size = settings.batch_size * settings.questions
        whole = len(entries) if len(entries) == len(rows) * settings.questions else len(entries) // size * size
        asked = [row for row in rows for _ in range(settings.questions)]
        # An earlier version chose other passages.
        return whole if [row for row, _ in entries[:whole]] == asked[:whole] else 0

    found = read_kept(path, usable)
    if found:
        done, total = f"{len(found) // settings.questions:,}", counted(len(rows), "passage")
        logger.info("questions for %s of %s are in %s and are not written again", done, total, path)
    return [Written(question, row) for row, question in found]


def generate_to_file(
    inputs: GenerationInputs,
    output: str | Path,
    settings: GenerateSettings,
    *,
    overwrite: bool = False,
    again: bool = True,
) -> GenerationReport | None:
    """Write examples with generated queries to a file of training examples, and ``OUTPUT.report.json``.

    Both appear whole or not at all. The questions stay in ``OUTPUT.questions-…``, so that the same call resumes after a
    kill, and one with other filters and ``overwrite`` needs neither new questions nor the LLM; questions that another
    LLM, prompt or corpus gave are removed. ``again=False`` leaves what the same inputs and settings made.

    Returns:
        The report; None if the same inputs and settings made the output before.

    Raises:
        ConfigError: The output cannot hold training examples.
        OutputExistsError: The output exists, made from other inputs or settings (without ``overwrite``), or holds
            something else.
        EmptyCorpusError, DataError, ModelError: See :func:`generate`; or the corpus cannot be read.
    """
    output, started = Path(output), time.monotonic()
    check_reported(output, "generate")
    named, steady = resolve_model(inputs.model.name), SteadyInputs()
    source, corpus = fetched(named), steady.corpus(inputs.corpus, inputs.reading)
    check_kept_apart(output, _GENERATED, [inputs.corpus, source.location])  # The plan can be compared with torch alone
    from llama2vec.model.backbone import load_backbone

    plan = _plan(inputs, settings, named if named.hub_id else source, corpus)
    written = {**plan["inputs"], "settings": settings.model_dump(exclude={"model", *FILTERS})}
    kept_in = kept_path(output, KEPT_QUESTIONS, written)
    read = [inputs.corpus, source.location]
    with claim(output, _GENERATED, plan, overwrite=overwrite, again=again, inputs=read) as work:
        if work.is_finished:
            settle_report(output)
            discard_kept(output, KEPT_QUESTIONS, but=kept_in)
            return None
        passages = list(
            read_passages(inputs.corpus, splitter=inputs.splitter, settings=inputs.reading, report=inputs.report)
        )
        steady.check()
        examples, report = generate(passages, lambda: load_backbone(inputs.model, source=source), settings, kept_in)
        report.seconds = round(time.monotonic() - started, 1)
        manifest = build_manifest("generate", plan["settings"], plan["inputs"], report.to_dict())
        manifest["sources"] = {"corpus": inputs.corpus, "model": source.name}
        finish_reported(work, examples, manifest)
    discard_kept(output, KEPT_QUESTIONS, but=kept_in)
    return report


def check_generated(
    inputs: GenerationInputs, splitter: Callable[[], Splitter | None], output: Path, settings: GenerateSettings,
    *, overwrite: bool,
) -> None:  # fmt: skip
    """Raise what :func:`generate_to_file` would for its output, and change nothing.

    ``splitter`` gives that of ``inputs``, and is asked where the output holds generated examples.
    """
    check_reported(output, "generate")
    named = resolve_model(inputs.model.name)
    check_inputs_apart(output, [inputs.corpus, named.location])

    def plan() -> dict[str, Any]:
        if overwrite:
            return {}  # Any plan will do where it may be replaced: the right one takes the model
        source = named if named.hub_id else fetched(named)
        corpus = SteadyInputs().corpus(inputs.corpus, inputs.reading)
        return _plan(replace(inputs, splitter=splitter()), settings, source, corpus)

    check_claim(output, _GENERATED, plan, overwrite=overwrite)


def _plan(inputs: GenerationInputs, settings: GenerateSettings, source: ModelSource, corpus: str) -> dict[str, Any]:
    """Return what of settings, corpus and LLM decides the result.

    A model of the hub is known by its name, because its files are here only once it has been loaded.
    """
    from llama2vec.model.device import dtype_name

    read_by = {"model": source.fingerprint(), "dtype": dtype_name(inputs.model)}
    # Which LLM it was is in the inputs, wherever it lies.
    given = {"corpus": corpus, **read_by, **how_read(inputs.splitter, inputs.reading)}
    decides = {"settings": settings.model_dump(exclude={"model"}), "inputs": given}
    found: dict[str, Any] = json.loads(canonical_json(decides))
    return found
