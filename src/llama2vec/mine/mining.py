"""Hard negatives: passages that rank high for a query and, as far as can be told, do not answer it.

Candidates come from BM25, from any encoder, or from both; then each searcher contributes its own window of ranks and
the union is mined. What might be an unlabeled answer goes: a false negative teaches the wrong thing, while a lost
candidate costs nothing, there are so many. Scores are judged by one searcher alone, the encoder where there is one,
because BM25's score says how many words are shared and not whether they answer (NV-Retriever, arXiv 2407.15831,
filters by a teacher's cosine in the same way).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llama2vec.data.corpus import corpus_fingerprint, read_passages
from llama2vec.data.examples import examples_fingerprint, read_examples, write_examples
from llama2vec.data.text_key import text_key
from llama2vec.errors import ConfigError, DataError, OutputExistsError, StoreError
from llama2vec.files import file_sha256, write_json
from llama2vec.manifest import build_manifest, canonical_json, digest, first_difference
from llama2vec.mine.candidates import (
    TEXT_ID,
    Bm25Searcher,
    DenseSearcher,
    Found,
    MiningEncoder,
    Searcher,
    Target,
    passages_of_examples,
)
from llama2vec.mine.near_duplicates import containment, shingles
from llama2vec.mine.report import MiningReport
from llama2vec.mine.settings import MineSettings
from llama2vec.progress import ProgressReporter
from llama2vec.records import Passage, Query, TrainingExample
from llama2vec.retrieve.index import ExactIndex, Index
from llama2vec.retrieve.search import check_contract
from llama2vec.retrieve.store import VectorStore
from llama2vec.retrieve.store_writer import write_store

logger = logging.getLogger(__name__)

_BATCH = 1024
_CACHED_PASSAGES = 1 << 13
_SHARD_SIZE = 2048


@dataclass(frozen=True, slots=True)
class MiningResult:
    """What :func:`mine` found.

    Attributes:
        examples: In the order of the input, with their new negatives, best ranked first.
        report: What was taken and left out.
    """

    examples: list[TrainingExample]
    report: MiningReport


def mine(
    examples: Sequence[TrainingExample],
    passages: Sequence[Passage],
    searchers: Sequence[Searcher],
    settings: MineSettings | None = None,
) -> MiningResult:
    """Give each query hard negatives from the searchers' windows of ranks.

    The bound of the positive-aware filters is the score of the query's *least*-scored positive: a candidate above it
    looks more like an answer than something that is known to be one. The best positive as the bound would let those
    between the two through. A positive that scores exactly 0 (BM25: no word in common) says nothing and sets none.

    Positives of other examples with the same query, or query id, count as positives too. Which passages are drawn
    depends on the seed, the query and the passages' ids, not on the order of examples or corpus.

    Args:
        examples: Queries with their positives.
        passages: The corpus in the order of the searchers' rows; held in memory.
        searchers: At least one; the first one's scores are judged and written.
        settings: Window, filters, numbers.

    Raises:
        ConfigError: No searcher, or a window that begins behind the last passage.
        DataError: No example, a query that gets too few negatives under ``short = "error"``, or nothing left to write.
        StoreError: A searcher has another number of passages than the corpus.
    """
    settings = settings or MineSettings()
    _check_inputs(examples, passages, searchers, settings)
    report = MiningReport(settings.report_examples)
    miner = _Miner(examples, passages, [searcher.name for searcher in searchers], settings, report)
    depth = min(settings.last_rank, len(passages))
    mined: list[TrainingExample] = []
    with ProgressReporter("mining", "queries") as progress:
        progress.start(len(examples))
        for begin in range(0, len(examples), _BATCH):
            batch = examples[begin : begin + _BATCH]
            queries = [
                Query(example.query_id or str(begin + place), example.query) for place, example in enumerate(batch)
            ]
            known = [miner.known(example) for example in batch]
            judged = searchers[0].search(queries, [one.targets for one in known], depth)
            others = [searcher.search(queries, [()] * len(batch), depth) for searcher in searchers[1:]]
            for example, about, *found in zip(batch, known, judged, *others, strict=True):
                with_negatives = miner.mine_one(example, about, found)
                if with_negatives is not None:
                    mined.append(with_negatives)
                progress.advance(1)
    if not mined:
        raise DataError(
            f"none of the {len(examples):,} queries got {settings.negatives} negatives; widen the window "
            "(mine.last_rank), give a larger corpus, or set mine.short=keep"
        )
    if report.short and settings.short == "keep":
        logger.warning(
            "%d of %d queries got fewer than %d negatives; mine.last_rank widens the window and "
            "mine.max_share_of_positive loosens the filter",
            report.short, len(examples), settings.negatives,
        )  # fmt: skip
    report.written = len(mined)
    return MiningResult(mined, report)


def _check_inputs(
    examples: Sequence[TrainingExample],
    passages: Sequence[Passage],
    searchers: Sequence[Searcher],
    settings: MineSettings,
) -> None:
    if not searchers:
        raise ConfigError("there is nothing to mine with; take BM25 (--bm25), a model (--model), or both")
    if not examples:
        raise DataError("there are no examples to mine negatives for")
    for searcher in searchers:
        if len(searcher) != len(passages):
            raise StoreError(
                f"{searcher.name} searches {len(searcher):,} passages and the corpus has {len(passages):,}; "
                "search the corpus that is mined"
            )
    if settings.first_rank > len(passages):
        raise ConfigError(
            f"the window begins at rank {settings.first_rank} and the corpus has {len(passages):,} passages; "
            "lower mine.first_rank or give a larger corpus"
        )


@dataclass(frozen=True, slots=True)
class _Text:
    """A passage as the filters see it: by what its texts share with equal ones, and by its shingles."""

    text: str
    keys: frozenset[str]
    shingles: frozenset[int]

    @classmethod
    def of(cls, passage: Passage) -> _Text:
        """Both the body and title with body count: sources differ in what they call the text."""
        keys = frozenset({text_key(passage.full_text), text_key(passage.text)}) - {""}
        return cls(passage.full_text, keys, shingles(passage.full_text))


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known about a query before it is searched.

    Attributes:
        query_key: Of the query's text.
        ids: Of its positives.
        rows: Of its positives in the corpus; further rows with their texts are copies.
        positives: Their texts, as the examples and as the corpus have them.
        keys: Of all these texts.
        targets: What the judge must score: this example's positives, those of its namesakes, its own negatives.
        own: Number of this example's positives.
        all: Number of all positives.
    """

    query_key: str
    ids: frozenset[str]
    rows: frozenset[int]
    positives: tuple[_Text, ...]
    keys: frozenset[str]
    targets: tuple[Target, ...]
    own: int
    all: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    row: int
    ranks: Mapping[str, int]
    score: float


@dataclass(frozen=True, slots=True)
class _Negative:
    """A chosen or kept negative; no id where none is known."""

    text: str
    id: str
    score: float
    keys: frozenset[str]


class _Miner:
    """Filter and choose, one query after the other."""

    def __init__(
        self,
        examples: Sequence[TrainingExample],
        passages: Sequence[Passage],
        names: Sequence[str],
        settings: MineSettings,
        report: MiningReport,
    ) -> None:
        self._passages, self._names, self._settings, self._report = passages, names, settings, report
        self._namesakes: dict[tuple[str, str], list[TrainingExample]] = {}
        wanted_ids: set[str] = set()
        wanted_keys: set[str] = set()
        for example in examples:
            for name in _query_names(example):
                self._namesakes.setdefault(name, []).append(example)
            wanted_ids.update(example.positive_ids, example.negative_ids)
            wanted_keys.update(map(text_key, (*example.positives, *example.negatives)))
        # Only rows that will be asked for: a large corpus has many more.
        self._row_of_id: dict[str, int] = {}
        self._row_of_key: dict[str, int] = {}
        for row, passage in enumerate(passages):
            if passage.id in wanted_ids:
                self._row_of_id.setdefault(passage.id, row)
            for key in (text_key(passage.full_text), text_key(passage.text)):
                if key in wanted_keys:
                    self._row_of_key.setdefault(key, row)
        self._text_of_row = lru_cache(maxsize=_CACHED_PASSAGES)(lambda row: _Text.of(passages[row]))

    def known(self, example: TrainingExample) -> _Known:
        """Gather what is known about an example's query."""
        family = {id(found): found for name in _query_names(example) for found in self._namesakes[name]}
        others = [found for found in family.values() if found is not example]
        positives = [pair for found in (example, *others) for pair in _with_ids(found.positives, found.positive_ids)]
        rows = [self._row(text, passage_id) for text, passage_id in positives]
        texts = {text: _Text.of(Passage("", text)) for text, _ in positives}
        texts |= {found.text: found for found in (self._text_of_row(row) for row in rows if row is not None)}
        targets: list[Target] = [text if row is None else row for (text, _), row in zip(positives, rows, strict=True)]
        if self._settings.keep_existing:
            for text, passage_id in _with_ids(example.negatives, example.negative_ids):
                row = self._row(text, passage_id)
                targets.append(text if row is None else row)
        return _Known(
            query_key=text_key(example.query),
            ids=frozenset(passage_id for _, passage_id in positives if passage_id),
            rows=frozenset(row for row in rows if row is not None),
            positives=tuple(texts.values()),
            keys=frozenset().union(*(text.keys for text in texts.values())),
            targets=tuple(targets),
            own=len(example.positives),
            all=len(positives),
        )

    def _row(self, text: str, passage_id: str) -> int | None:
        row = self._row_of_id.get(passage_id) if passage_id else None
        return self._row_of_key.get(text_key(text)) if row is None else row

    def mine_one(self, example: TrainingExample, known: _Known, found: Sequence[Found]) -> TrainingExample | None:
        """Return the example with its negatives; None where it has too few and those are dropped."""
        settings, report = self._settings, self._report
        report.queries += 1
        report.unknown_positives += sum(isinstance(target, str) for target in known.targets[: known.own])
        target_scores = found[0].target_scores
        negatives = self._kept(example, known, target_scores[known.all :])
        survivors = self._survivors(example, known, found, {key for negative in negatives for key in negative.keys})
        for candidate in self._draw(example, survivors, settings.negatives - len(negatives)):
            passage, text = self._passages[candidate.row], self._text_of_row(candidate.row)
            passage_id = "" if passage.id.startswith(TEXT_ID) else passage.id
            negatives.append(_Negative(text.text, passage_id, candidate.score, text.keys))
            report.choose(candidate.ranks)
        if len(negatives) < settings.negatives:
            if settings.short == "error":
                raise DataError(
                    f"the query {example.query[:80]!r} got {len(negatives)} of {settings.negatives} negatives; widen "
                    "the window (mine.last_rank), give a larger corpus, or set mine.short to keep or drop"
                )
            report.come_short(example, len(negatives))
            if settings.short == "drop":
                return None
        return self._rewritten(example, negatives, target_scores[: known.own])

    def _kept(self, example: TrainingExample, known: _Known, scores: Sequence[float]) -> list[_Negative]:
        """Return the negatives that the example brings along, less those that are positives."""
        if not self._settings.keep_existing:
            self._report.replaced += len(example.negatives)
            return []
        kept: list[_Negative] = []
        keys: set[str] = set()
        pairs = _with_ids(example.negatives, example.negative_ids)
        for (text, passage_id), score in zip(pairs, scores, strict=True):
            negative = _Text.of(Passage(passage_id, text))
            row = self._row(text, passage_id)
            own_id = passage_id or (self._passages[row].id if row is not None else "")
            reason, positive = self._why_not(own_id, negative, known)
            if reason is None and keys & negative.keys:
                reason = "duplicate_negative"
            if reason:
                details = {"source": "the example's own negatives", "positive": positive}
                self._report.remove(reason, example.query, own_id, text, details)
                continue
            keys |= negative.keys
            kept.append(_Negative(text, "" if own_id.startswith(TEXT_ID) else own_id, score, negative.keys))
        self._report.kept += len(kept)
        return kept

    def _survivors(
        self, example: TrainingExample, known: _Known, found: Sequence[Found], seen: set[str]
    ) -> list[_Candidate]:
        """Return the window's candidates that pass every filter, best ranked first.

        Args:
            example: Whose query was searched.
            known: About the query.
            found: By each searcher.
            seen: Text keys of negatives that are there already; those of the survivors are added.
        """
        positive_scores = found[0].target_scores[: known.all]
        bound = self._bound(positive_scores)
        survivors: list[_Candidate] = []
        for candidate in self._window(found):
            passage, text = self._passages[candidate.row], self._text_of_row(candidate.row)
            reason, positive = self._why_not(passage.id, text, known)
            if candidate.row in known.rows:
                reason = "known_positive"
            if reason is None and min(candidate.ranks.values()) < self._settings.first_rank:
                reason = "above_window"
            elif reason is None and candidate.score > bound:
                reason = "too_close_to_positive"
            elif reason is None and seen & text.keys:
                reason = "duplicate_negative"
            if reason is None:
                seen |= text.keys
                survivors.append(candidate)
                continue
            details = {"ranks": dict(candidate.ranks), "score": candidate.score}
            details |= {"positive": positive, "least_positive_score": min(positive_scores)}
            self._report.remove(reason, example.query, passage.id, text.text, details)
        return survivors

    def _window(self, found: Sequence[Found]) -> Iterator[_Candidate]:
        """Yield what lies in at least one searcher's window, by best rank, the judge's first where ranks are equal."""
        ranks: dict[int, dict[str, int]] = {}
        lists = [(name, one.rows.tolist()) for name, one in zip(self._names, found, strict=True)]
        for place in range(max(len(rows) for _, rows in lists)):
            for name, rows in lists:
                if place < len(rows):
                    ranks.setdefault(rows[place], {})[name] = place + 1
        scores = dict(zip(lists[0][1], found[0].scores.tolist(), strict=True))
        unscored = [row for row in ranks if row not in scores]
        if unscored:
            scores |= dict(zip(unscored, found[0].score_rows(unscored), strict=True))
        for row, by_name in ranks.items():
            if max(by_name.values()) >= self._settings.first_rank:
                self._report.candidates += 1
                yield _Candidate(row, by_name, scores[row])

    def _why_not(self, passage_id: str, text: _Text, known: _Known) -> tuple[str | None, str]:
        """Return why a text cannot be a negative of the query, None where it can, and the positive it resembles."""
        first = known.positives[0].text
        if passage_id in known.ids:
            return "known_positive", first
        if not text.keys:
            return "empty", first
        if text.keys & known.keys:
            return "identical_to_positive", next(one.text for one in known.positives if one.keys & text.keys)
        least = self._settings.near_duplicate
        for positive in known.positives:
            if least and containment(text.shingles, positive.shingles) >= least:
                return "near_duplicate_of_positive", positive.text
        return ("query_itself" if known.query_key in text.keys else None), first

    def _bound(self, positive_scores: Sequence[float]) -> float:
        """Return the highest score that a negative may have."""
        share, margin = self._settings.max_share_of_positive, self._settings.margin
        telling = [score for score in positive_scores if score != 0]
        if not telling and (share or margin):
            self._report.unbounded += 1
        if not telling:
            return math.inf
        least = min(telling)
        # share x least, but below the positive also where its cosine is negative.
        by_share = least - (1 - share) * abs(least) if share else math.inf
        return min(by_share, least - margin if margin else math.inf)

    def _draw(self, example: TrainingExample, survivors: list[_Candidate], count: int) -> list[_Candidate]:
        if self._settings.choose == "top" or len(survivors) <= count:
            return survivors[: max(count, 0)]
        # The smallest of one hash per (seed, query, passage) is an even draw that no order can change.
        seed = f"{self._settings.seed}\0{example.query_id}\0{text_key(example.query)}\0"

        def lot(candidate: _Candidate) -> bytes:
            name = f"{seed}{self._passages[candidate.row].id}"
            return hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest()

        drawn = {candidate.row for candidate in sorted(survivors, key=lot)[: max(count, 0)]}
        return [candidate for candidate in survivors if candidate.row in drawn]

    def _rewritten(
        self, example: TrainingExample, negatives: Sequence[_Negative], positive_scores: Sequence[float]
    ) -> TrainingExample:
        """Return the example with these negatives; scores of another teacher go with the negatives they belong to."""
        ids = tuple(negative.id for negative in negatives)
        with_scores = self._settings.write_scores
        if not with_scores and (example.positive_scores or example.negative_scores):
            self._report.scores_dropped += 1
        return dataclasses.replace(
            example,
            negatives=tuple(negative.text for negative in negatives),
            negative_ids=ids if all(ids) else (),
            positive_scores=tuple(positive_scores) if with_scores else (),
            negative_scores=tuple(negative.score for negative in negatives) if with_scores else (),
        )


def _query_names(example: TrainingExample) -> list[tuple[str, str]]:
    """What two examples of one query share: its text, and its id where there is one."""
    names = [("text", text_key(example.query))]
    return [*names, ("id", example.query_id)] if example.query_id else names


def _with_ids(texts: Sequence[str], ids: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(texts, ids or [""] * len(texts), strict=True))


# ----------------------------------------------------------------------------------------------- from file to file


@dataclass(frozen=True)
class MiningInputs:
    """What :func:`mine_to_file` reads.

    Attributes:
        examples: Source of the training examples.
        split: Of a source that has several.
        corpus: Source of the passages; "" = those of the index, else the corpus of the examples' BEIR folder, else
            the examples' own passages.
        model: The encoder's name, for the report.
        encoder: Searches too where it is given.
        index: The corpus as this encoder sees it; None = it is encoded beside the output, resumably.
    """

    examples: str
    split: str = "train"
    corpus: str = ""
    model: str = ""
    encoder: MiningEncoder | None = None
    index: Index | None = None


def mine_to_file(
    inputs: MiningInputs, output: str | Path, settings: MineSettings | None = None, *, overwrite: bool = False
) -> MiningReport | None:
    """Mine negatives for a file of training examples and write them, with ``OUTPUT.report.json`` beside.

    Both appear whole or not at all. The vectors of a corpus that has no index yet stand in ``OUTPUT.store-…`` until
    the output is written: after a kill, or a setting that was refused, the same call goes on from the last shard.

    Returns:
        The report; None where the output was finished before, from the same inputs and settings.

    Raises:
        ConfigError: Neither BM25 nor a model, or an output that is its own input.
        OutputExistsError: The output is there, from other inputs or settings, and ``overwrite`` is not given.
        StoreError: The index has another contract than the encoder, or other passages than the corpus.
        DataError: See :func:`mine`; or an input that cannot be read.
    """
    output, settings = Path(output), settings or MineSettings()
    if not inputs.corpus and inputs.index is None and _is_beir(inputs.examples):
        inputs = dataclasses.replace(inputs, corpus=inputs.examples)
    _check_sources(inputs, output, settings)
    plan = {"settings": settings.model_dump(), "inputs": _fingerprints(inputs)}
    if _is_finished(output, plan, overwrite=overwrite):
        return None
    started = time.monotonic()
    examples = list(read_examples(inputs.examples, split=inputs.split))
    passages = _corpus(inputs, examples)
    output.parent.mkdir(parents=True, exist_ok=True)
    searchers, work = _searchers(inputs, passages, settings, output)
    result = mine(examples, passages, searchers, settings)
    result.report.facts = {"seconds": round(time.monotonic() - started, 1), "passages": len(passages)}
    _write(result, output, plan, {"examples": inputs.examples, "corpus": inputs.corpus, "model": inputs.model})
    if work:
        shutil.rmtree(work, ignore_errors=True)
    return result.report


def report_path(output: str | Path) -> Path:
    """Return where the report of an output lies.

    >>> report_path("mined.jsonl").name
    'mined.jsonl.report.json'
    """
    return Path(f"{output}.report.json")


def _is_beir(source: str) -> bool:
    return any((Path(source) / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz"))


def _check_sources(inputs: MiningInputs, output: Path, settings: MineSettings) -> None:
    if not settings.bm25 and inputs.encoder is None:
        raise ConfigError("there is nothing to mine with; take BM25 (--bm25), a model (--model), or both")
    if inputs.index and inputs.encoder is None:
        raise ConfigError(f"{inputs.index.store.path} needs the model that encoded it; give --model")
    if inputs.index and inputs.encoder:
        check_contract(inputs.index, inputs.encoder)
    if any(Path(source).resolve() == output.resolve() for source in (inputs.examples, inputs.corpus) if source):
        raise ConfigError(f"{output} is both input and output; choose another path for --output")
    if output.is_dir() or not output.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise ConfigError(f"{output} is no name for training examples; give a path that ends in .jsonl or .jsonl.gz")


def _fingerprints(inputs: MiningInputs) -> dict[str, Any]:
    """Return what decides the result, wherever the files lie."""
    index, encoder = inputs.index, inputs.encoder
    return {
        "examples": examples_fingerprint(inputs.examples, split=inputs.split),
        "split": inputs.split,
        "corpus": corpus_fingerprint(inputs.corpus) if inputs.corpus else None,
        "contract_hash": encoder.contract_hash if encoder else None,
        "index": index.kind if index else None,
        "store": file_sha256(index.store.path / "store.json") if index else None,
    }


def _is_finished(output: Path, plan: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return True for an output that this plan made; raise for one that may not be replaced."""
    if not output.exists():
        return False
    what_to_do = "choose another path or pass --overwrite"
    try:
        report = json.loads(report_path(output).read_bytes())
        there = {"settings": report["settings"], "inputs": report["inputs"]}
        is_whole = report["output"]["sha256"] == file_sha256(output)
    except (OSError, ValueError, KeyError, TypeError):
        there, is_whole = {}, False
    differs = first_difference(there, json.loads(canonical_json(plan))) if there else None
    if there and is_whole and differs is None:
        logger.info("%s is finished already, from the same inputs and settings; nothing to do", output)
        return True
    if overwrite:
        return False
    if differs:
        name, old, new = differs
        raise OutputExistsError(
            f"{output} was mined with other settings: {name} is {old!r} there and {new!r} now; {what_to_do}"
        )
    raise OutputExistsError(f"{output} exists already and has no report that fits it; {what_to_do}")


def _corpus(inputs: MiningInputs, examples: Sequence[TrainingExample]) -> list[Passage]:
    stored = _stored_passages(inputs.index.store) if inputs.index else None
    if not inputs.corpus:
        return list(stored) if stored is not None else passages_of_examples(examples)
    passages = list(read_passages(inputs.corpus))
    if stored is None or inputs.index is None:
        return passages
    same = len(passages) == len(inputs.index.store)
    if not same or any(mine_ != theirs for mine_, theirs in zip(passages, stored, strict=False)):
        raise StoreError(
            f"{inputs.index.store.path} holds other passages than {inputs.corpus}, or in another order; "
            "encode this corpus, or leave --corpus out"
        )
    return passages


def _stored_passages(store: VectorStore) -> Iterator[Passage]:
    for begin in range(0, len(store), _SHARD_SIZE):
        yield from store.passages(range(begin, min(begin + _SHARD_SIZE, len(store))))


def _searchers(
    inputs: MiningInputs, passages: Sequence[Passage], settings: MineSettings, output: Path
) -> tuple[list[Searcher], Path | None]:
    """Return the searchers, the judge first, and the folder of vectors that was made for them."""
    searchers: list[Searcher] = []
    index, work = inputs.index, None
    if inputs.encoder:
        if index is None:
            content = _passages_digest(passages)
            name = digest([inputs.encoder.contract_hash, content])[:12]
            work = output.with_name(f"{output.name}.store-{name}")
            source = {"passages": content}
            store = write_store(
                lambda: passages, inputs.encoder, work, source=source, shard_size=_SHARD_SIZE, total=len(passages)
            )
            index = ExactIndex(store)
        searchers.append(DenseSearcher(index, inputs.encoder))
    if settings.bm25:
        searchers.append(Bm25Searcher(passages, language=settings.language))
    return searchers, work


def _passages_digest(passages: Sequence[Passage]) -> str:
    total = hashlib.sha256()
    for passage in passages:
        fields = (passage.id, passage.title, passage.text)
        total.update(hashlib.sha256(json.dumps(fields).encode()).digest())
    return total.hexdigest()


def _write(result: MiningResult, output: Path, plan: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Write the report, then move the examples into place: a kill between the two leaves nothing that looks done."""
    # The suffix must stay: it decides the format.
    new = output.with_name(f".new-{uuid.uuid4().hex[:8]}.{output.name}")
    try:
        write_examples(result.examples, new)
        content = build_manifest("mine", plan["settings"], plan["inputs"], result.report.to_dict())
        content |= {"sources": sources, "output": {"bytes": new.stat().st_size, "sha256": file_sha256(new)}}
        write_json(report_path(output), content)
        os.replace(new, output)
    finally:
        new.unlink(missing_ok=True)
