"""Hard negatives: passages that rank high for a query and, as far as can be told, do not answer it.

Candidates come from BM25, from an encoder, or from both; each searcher contributes its own window of ranks, and
:mod:`llama2vec.mine.filters` decides what becomes a negative.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama2vec.artifact import check_claim, claim
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.corpus.reading import how_read
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.examples.labeled import examples_fingerprint, named_fingerprint, read_examples
from llama2vec.data.examples.reported import (
    check_inputs_apart,
    check_kept_apart,
    finish_reported,
    reported_kind,
    settle_report,
)
from llama2vec.errors import ConfigError, DataError, StoreError
from llama2vec.kept import KEPT_SCORES, KEPT_STORE, KeptScores, Scorer, discard_kept, kept_path
from llama2vec.manifest import build_manifest, canonical_json, first_difference, same_plan
from llama2vec.mine.candidates import Bm25Searcher, DenseSearcher, MiningEncoder, Searcher, passages_of_examples
from llama2vec.mine.filters import Filters, Undecided
from llama2vec.mine.inputs import MiningInputs as MiningInputs
from llama2vec.mine.inputs import check_sources, check_window, mined_passages, with_corpus
from llama2vec.mine.report import MiningReport
from llama2vec.mine.settings import MineSettings
from llama2vec.mine.teacher import judge
from llama2vec.records import Passage, Query, TrainingExample
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.search.opened import check_contract, warn_of_cut_queries
from llama2vec.retrieve.store.number_format import compute_dtype
from llama2vec.retrieve.store.reader import VectorStore, store_sha256
from llama2vec.retrieve.store.writer import STORE, passages_sha256, warn_of_cut_passages, write_store
from llama2vec.terminal import ProgressReporter, counted

logger = logging.getLogger(__name__)

_BATCH = 1024
_TEACHER_BATCH = 64  # Small, because a cross-encoder takes its time and the progress bar moves once a batch
_SHARD_SIZE = 2048
_ONE_SPLITTING = (
    "documents must be split as for the examples: write their passages once (llama2vec read --model ENCODER), and give "
    "that file to generate and mine"
)


@dataclass(frozen=True, slots=True)
class MiningResult:
    """What :func:`mine` found."""

    examples: list[TrainingExample]  # In the order of the input, with their new negatives, best ranked first
    report: MiningReport  # What was taken and what was removed


def mine(
    examples: Sequence[TrainingExample],
    passages: Sequence[Passage],
    searchers: Sequence[Searcher],
    settings: MineSettings | None = None,
    teacher: Scorer | None = None,
) -> MiningResult:
    """Give each query hard negatives from the searchers' windows of ranks.

    The filters bound a candidate's score by the query's *lowest*-scored positive: a candidate above it looks more like
    an answer than something known to be one. A positive that scores exactly 0 (BM25: no shared word) sets no bound.
    Positives of other examples with the same query, or query id, count as positives too. Which passages are drawn
    depends on the seed, the query and the passages' ids, not on the order of examples or corpus.

    Args:
        examples: Queries with their positives.
        passages: The corpus in the order of the searchers' rows.
        searchers: At least one; the scores of the first are judged and written.
        settings: Window, filters, numbers.
        teacher: Scores the positives and negatives that are written, and may refuse candidates.

    Raises:
        ConfigError: No searcher, or a window that begins after the last passage.
        DataError: No example, a query that gets too few negatives under ``short = "error"``, or nothing left to write.
        StoreError: A searcher has another number of passages than the corpus.
    """
    settings = settings or MineSettings()
    _check_inputs(examples, passages, searchers, settings)
    report = MiningReport(settings.report_examples)
    filters = Filters(examples, passages, [searcher.name for searcher in searchers], settings, report)
    mined: list[TrainingExample] = []
    with ProgressReporter("mining", "query", "queries") as progress:
        progress.start(len(examples))
        size = _TEACHER_BATCH if teacher else _BATCH
        for begin in range(0, len(examples), size):
            batch = examples[begin : begin + size]
            undecided = _considered(batch, begin, searchers, filters, min(settings.last_rank, len(passages)))
            if teacher:
                judge(undecided, filters, teacher, settings.teacher_share_of_positive)
            for query in undecided:
                with_negatives = filters.choose(query)
                if with_negatives is not None:
                    mined.append(with_negatives)
                progress.advance(1)
    if not mined:
        raise DataError(
            f"no query of {len(examples):,} got {counted(settings.negatives, 'negative')}; widen the window "
            "(mine.last_rank), give a larger corpus, or set mine.short=keep"
        )
    _warn(report, settings, len(examples))
    report.written = len(mined)
    return MiningResult(mined, report)


def _warn(report: MiningReport, settings: MineSettings, queries: int) -> None:
    """Warn of queries with too few negatives, and of positives that the corpus has under other ids or not at all."""
    if report.short and settings.short == "keep":
        logger.warning(
            "%d of %s got fewer than %s; mine.last_rank widens the window and mine.max_share_of_positive loosens the "
            "filter", report.short, counted(queries, "query", "queries"),
            counted(settings.negatives, "negative"),
        )  # fmt: skip
    if report.misnamed_positives:
        logger.warning(
            "the corpus has another text under the id of %s, whose own text was used; %s",
            counted(report.misnamed_positives, "positive"), _ONE_SPLITTING,
        )  # fmt: skip


def _considered(
    batch: Sequence[TrainingExample], begin: int, searchers: Sequence[Searcher], filters: Filters, depth: int
) -> list[Undecided]:
    """Search and filter the candidates of some examples, the first of which is number ``begin``."""
    queries = [Query(example.query_id or str(begin + place), example.query) for place, example in enumerate(batch)]
    known = [filters.known(example) for example in batch]
    judged = searchers[0].search(queries, [one.targets for one in known], depth)
    others = [searcher.search(queries, [()] * len(batch), depth) for searcher in searchers[1:]]
    rows = zip(batch, known, judged, *others, strict=True)
    return [filters.consider(example, about, found) for example, about, *found in rows]


def _check_inputs(
    examples: Sequence[TrainingExample],
    passages: Sequence[Passage],
    searchers: Sequence[Searcher],
    settings: MineSettings,
) -> None:
    if not searchers:
        raise ConfigError("nothing to mine with; set mine.bm25=true, give a model (--model), or both")
    if not examples:
        raise DataError("the data holds no examples to mine negatives for; name another file or --split")
    for searcher in searchers:
        if len(searcher) != len(passages):
            raise StoreError(
                f"{searcher.name} searches {counted(len(searcher), 'passage')} and the corpus has {len(passages):,}; "
                "search the corpus that is mined"
            )
    check_window(settings, passages)


def mine_to_file(
    inputs: MiningInputs,
    output: str | Path,
    settings: MineSettings | None = None,
    *,
    overwrite: bool = False,
    again: bool = True,
) -> MiningReport | None:
    """Mine negatives for a file of training examples; write them and ``OUTPUT.report.json``.

    Both appear whole or not at all. The vectors of a corpus that has no index yet are kept in ``OUTPUT.store-…``, and
    a teacher's scores in ``OUTPUT.scores-…``, until the output is written, so that the same call resumes after a kill
    or a refused setting. ``again=False`` leaves what the same inputs and settings made, also with ``overwrite``.

    Returns:
        The report; None if the same inputs and settings made the output before.

    Raises:
        ConfigError: Neither BM25 nor a model, or an output that cannot hold training examples.
        OutputExistsError: The output exists, made from other inputs or settings (without ``overwrite``), or holds
            something else.
        StoreError: The index has another contract than the encoder, or other passages than the corpus.
        DataError: See :func:`mine`; or an input cannot be read.
    """
    output, settings, started = Path(output), settings or MineSettings(), time.monotonic()
    inputs = with_corpus(inputs)
    check_sources(inputs, output, settings)
    check_kept_apart(output, _MINED, read := _read_paths(inputs))
    plan, splitter, encoder = _plan(inputs, output, settings, steady := SteadyInputs())
    with claim(output, _MINED, plan, overwrite=overwrite, again=again, inputs=read) as work:
        if work.is_finished:
            settle_report(output)
            _discard_kept(output, inputs)  # left by a kill between the result and its end
            return None
        _warn_of_another_splitting(inputs.examples, plan["inputs"])
        examples = list(read_examples(inputs.examples, split=inputs.split, reading=inputs.reading))
        passages = mined_passages(inputs, splitter, examples)
        steady.check()
        searchers = _searchers(inputs, encoder, passages, settings, output)
        queries = [Query("", example.query) for example in examples]
        warn_of_cut_queries(encoder, queries, "raise query_max_tokens", where=inputs.examples)
        teacher = None
        if inputs.teacher:
            teacher = KeptScores(inputs.teacher, kept_path(output, KEPT_SCORES, inputs.teacher.fingerprint))
        result = mine(examples, passages, searchers, settings, teacher)
        result.report.facts = {"seconds": round(time.monotonic() - started, 1), "passages": len(passages)}
        if inputs.teacher:
            result.report.facts["teacher"] = inputs.teacher.facts
            inputs.teacher.warn_of_cut_texts()
        manifest = build_manifest("mine", plan["settings"], plan["inputs"], result.report.to_dict())
        manifest["sources"] = {"examples": inputs.examples, "corpus": inputs.corpus, "model": inputs.model}
        if inputs.teacher:
            manifest["sources"]["teacher"] = inputs.teacher.name
        finish_reported(work, result.examples, manifest)
    _discard_kept(output, inputs)
    return result.report


def check_mined(inputs: MiningInputs, output: Path, settings: MineSettings, *, overwrite: bool) -> None:
    """Raise what :func:`mine_to_file` would for its output, and change nothing."""
    inputs = with_corpus(inputs)
    check_sources(inputs, output, settings)
    check_inputs_apart(output, _read_paths(inputs))
    # Any plan will do where it may be replaced: the right one takes the model.
    check_claim(
        output, _MINED, lambda: {} if overwrite else _plan(inputs, output, settings, SteadyInputs())[0],
        overwrite=overwrite,
    )  # fmt: skip


def _read_paths(inputs: MiningInputs) -> list[str | Path | None]:
    return [inputs.examples, inputs.corpus, inputs.model, inputs.index.store.path if inputs.index else None]


def is_mined(inputs: MiningInputs, output: Path, settings: MineSettings) -> bool:
    """Whether the same inputs and settings have made an output already."""
    found, inputs = _MINED.read(output) if output.is_file() else None, with_corpus(inputs)
    if found is None:
        return False
    return same_plan(found.plan, _plan(inputs, output, settings, SteadyInputs())[0])


def encode_together(inputs: MiningInputs, output: Path) -> None:
    """Encode the corpus as :func:`mine_to_file` does, which then finds the store; for several processes at once.

    None of them may begin to mine before all have returned, because mining ends by removing the store.
    """
    output = inputs.store_beside or output
    inputs = with_corpus(inputs)
    if inputs.encoder is None or inputs.index is not None:
        return
    splitter, encoder = inputs.splitter(), inputs.encoder()
    if inputs.corpus:
        _encoded(encoder, lambda: read_passages(inputs.corpus, splitter=splitter, settings=inputs.reading), output)
        return
    passages = passages_of_examples(read_examples(inputs.examples, split=inputs.split, reading=inputs.reading))
    _encoded(encoder, lambda: passages, output)


def _encoded(encoder: MiningEncoder, passages: Callable[[], Iterable[Passage]], output: Path) -> VectorStore:
    """Return the store of some passages beside an output, made if it is not there."""
    content, total = passages_sha256(passages()), sum(1 for _ in passages())
    # Vectors of each number format by themselves: an interrupted mining may continue with another one.
    folder = kept_path(output, KEPT_STORE, [encoder.contract_hash, compute_dtype(encoder), content])
    source = {"passages": content}
    return write_store(passages, encoder, folder, source=source, shard_size=_SHARD_SIZE, total=total)


def discard_stores(output: Path) -> None:
    """Remove the vectors that were kept beside an output."""
    discard_kept(output, KEPT_STORE, STORE)


def _discard_kept(output: Path, inputs: MiningInputs) -> None:
    """Remove the vectors and scores that attempts at an output have kept, but not vectors that others need."""
    if inputs.store_beside is None:
        discard_stores(output)
    discard_kept(output, KEPT_SCORES)


_MINED = reported_kind("a file of mined examples")


def _plan(
    inputs: MiningInputs, output: Path, settings: MineSettings, steady: SteadyInputs
) -> tuple[dict[str, Any], Splitter | None, MiningEncoder | None]:
    """Return what of settings, data and models decides the result, wherever they lie; and the splitter and encoder."""
    index, found = inputs.index, _MINED.read(output) if output.is_file() else None
    examples = steady.take(inputs.examples, partial(examples_fingerprint, inputs.examples, split=inputs.split))
    before = (found.plan["inputs"] or {}).get("examples") if found else None
    if before == named_fingerprint(inputs.examples, split=inputs.split):
        examples = before  # An earlier version made the output from the same file
    given: dict[str, Any] = {
        "examples": examples,
        "split": inputs.split,
        "corpus": steady.corpus(inputs.corpus, inputs.reading) if inputs.corpus else None,
        "index": index.kind if index else None,
        "store": store_sha256(index.store) if index else None,
        # Which teacher it was is here, so the settings need not name it.
        **({"teacher": inputs.teacher.fingerprint} if inputs.teacher else {}),
    }
    splitter, encoder = inputs.splitter(), inputs.encoder() if inputs.encoder else None
    if index and encoder:
        check_contract(index.store, encoder)
    given |= {"contract_hash": encoder.contract_hash if encoder else None, **how_read(splitter, inputs.reading)}
    decides = {"settings": settings.model_dump(exclude={"teacher"}), "inputs": given}
    return json.loads(canonical_json(decides)), splitter, encoder


def _warn_of_another_splitting(examples: str, given: Mapping[str, Any]) -> None:
    """Warn where the questions of ``generate`` were written for other passages of this corpus."""
    found = reported_kind("a file of generated examples").read(Path(examples)) if Path(examples).is_file() else None
    there: Mapping[str, Any] = (found.plan["inputs"] or {}) if found else {}
    if not given["corpus"] or there.get("corpus") != given["corpus"]:
        return
    before, now = ({key: made[key] for key in ("reading", "passages") if key in made} for made in (there, given))
    if differs := first_difference(before, now):
        name, old, new = differs
        logger.warning(
            "%s: its questions were written for passages that were split otherwise (%s: %s there, %s now); %s",
            examples, name, old, new, _ONE_SPLITTING,
        )  # fmt: skip


def _searchers(
    inputs: MiningInputs,
    encoder: MiningEncoder | None,
    passages: Sequence[Passage],
    settings: MineSettings,
    output: Path,
) -> list[Searcher]:
    """Return the searchers, the judge first; vectors made for them are kept beside the output."""
    searchers: list[Searcher] = []
    index = inputs.index
    if encoder:
        if index is None:
            store = _encoded(encoder, lambda: passages, inputs.store_beside or output)
            remedy = "split them with --set passages.split=always"
            warn_of_cut_passages(store, remedy, where=inputs.corpus or inputs.examples)
            index = ExactIndex(store)
        searchers.append(DenseSearcher(index, encoder))
    if settings.bm25:
        searchers.append(Bm25Searcher(passages, language=settings.language))
    return searchers
