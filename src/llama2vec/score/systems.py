"""The systems that are scored: a model, BM25, or both together, and how each searches a task's corpus."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama2vec.artifact import tidy
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.documents.windows import WindowSettings, cut_documents, max_passage
from llama2vec.data.settings import ReadingSettings, Ties
from llama2vec.data.tasks.beir import BeirTask, warn_of_empty_queries, warn_of_unanswerable_queries
from llama2vec.data.tasks.ties import kept_apart, orders_differ
from llama2vec.data.tasks.trec import check_id
from llama2vec.data.text.cutting import TokenSpans
from llama2vec.data.text.words import word_spans
from llama2vec.errors import ConfigError, EvaluationError, StoreError
from llama2vec.manifest import digest
from llama2vec.model.lengths import warn_of_limit
from llama2vec.records import Passage, Query, Report, Run, SentencePair, Side
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.index.lexical import Bm25Index, new_tokenizer
from llama2vec.retrieve.search.fusion import FUSED_DEPTH, Fusion, Mode, first_of_each, search_documents
from llama2vec.retrieve.search.opened import warn_of_cut_queries
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.reader import STORE_FILE, VectorStore, store_passages
from llama2vec.retrieve.store.writer import STORE, write_store
from llama2vec.score.corpora import CorpusFacts
from llama2vec.score.metrics import (
    check_returned,
    correlation_interval,
    score_similarities,
    warn_of_missing_queries,
    warn_of_short_run,
)
from llama2vec.score.settings import ScoringSettings, SentenceSides
from llama2vec.score.significance import scipy_stats
from llama2vec.score.tasks import Task, find_task
from llama2vec.score.windows import windows_of
from llama2vec.terminal import counted

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder

logger = logging.getLogger(__name__)

BM25 = "bm25"
_WITH_BM25 = "+bm25"
SearchMode = Literal["dense", "hybrid"]
"""Search a model's corpus by its vectors, or by the vectors and BM25 together."""

_SHARD_SIZE = 1024
_ENCODE: dict[Side, str] = {"query": "encode_queries", "passage": "encode_passages"}


@dataclass(frozen=True)
class System:
    """What is evaluated: an encoder, a run that any system made, or BM25; the name is one word for reports and runs."""

    name: str
    encoder: Encoder | None = None
    mode: SearchMode = "dense"
    run: Run | None = None  # Results that are scored as they are
    ties: Ties = "id"  # How equal scores of the run are ranked

    def reader_facts(self, language: str) -> dict[str, object]:
        """Return what decides how a text is read: the contract of a model, the words of BM25; of a run, its results."""
        if self.run is not None:
            made_of = digest({key: dict(row) for key, row in self.run.results.items()})
            # Where both orders are the same, so are the scores, and those of earlier versions.
            ties = {"ties": self.ties} if self.ties != "id" and orders_differ(self.run) else {}
            return {"contract_hash": None, "run_sha256": made_of, **ties}
        if self.encoder is None:
            return {"contract_hash": None, "encoder": {"name": BM25, **bm25_settings(language)}}
        contract = self.encoder.contract
        return {
            "contract_hash": self.encoder.contract_hash,
            "dtype": self.encoder.dtype,
            "prompts": contract.prompts.model_dump(),
            "encoder": contract.encoder.model_dump(),
        }

    def facts(self, language: str) -> dict[str, object]:
        """Return what decides the system's scores."""
        if self.mode == "dense":
            return self.reader_facts(language)
        return {**self.reader_facts(language), "search": self.search_facts(language)}

    def search_facts(self, language: str) -> dict[str, object]:
        """Return what decides how vectors and BM25 are joined."""
        return {
            "mode": self.mode,
            "fusion": Fusion().method,
            "fused_depth": FUSED_DEPTH,
            "bm25": bm25_settings(language),
            # Earlier versions scored a passage that BM25 lacks as the lowest it found, however few it found.
            "not_found": "0 if BM25 finds few",
        }


def same_system(name: str, other: str) -> bool:
    """Tell whether two names of systems are one, or lead to one folder: ``tuned`` and ``./tuned``.

    >>> same_system("tuned", "./tuned"), same_system("tuned+bm25", "./tuned+bm25"), same_system("tuned", "bm25")
    (True, True, False)
    """
    ends = name.endswith(_WITH_BM25), other.endswith(_WITH_BM25)
    paths = [os.path.realpath(one.removesuffix(_WITH_BM25)) for one in (name, other)]
    return name == other or (ends[0] == ends[1] and paths[0] == paths[1])


def bm25_settings(language: str) -> dict[str, Any]:
    """Return what decides BM25's scores."""
    return {"language": language, "k1": 1.2, "b": 0.75}


def find_tasks(system: System, names: Sequence[str]) -> list[Task]:
    """Return named tasks, each once; a ConfigError where the system cannot be scored on one."""
    tasks = [find_task(name) for name in dict.fromkeys(names)]
    if not tasks:
        raise ConfigError("nothing to evaluate; name a task, such as beir/scifact")
    by_stem: dict[str, Task] = {}
    for task in tasks:
        if by_stem.setdefault(task.stem, task) != task:
            raise ConfigError(f"two tasks would be written to {task.stem}.json; evaluate them into different folders")
        if task.kind == "similarity" and system.encoder is None:
            raise ConfigError(f"{task.name}: {system.name} does not score sentence pairs; give a model")
        if task.kind == "similarity" and system.mode != "dense":
            raise ConfigError(
                f"{task.name}: sentence pairs are not searched; evaluate them without --mode {system.mode}"
            )
    check_id(system.name, "name of the system", "--name")
    return list(by_stem.values())


def check_packages(system: System, task: Task, language: str) -> None:
    """Raise a MissingDependencyError, or a ConfigError for the language, before a corpus is encoded in vain."""
    if task.kind == "similarity":
        scipy_stats()
    elif system.run is None and (system.encoder is None or system.mode == "hybrid"):
        new_tokenizer(language)


def window_facts(system: System, task: Task, given: ScoringSettings, reach: int) -> dict[str, Any]:
    """Return what decides how a task's documents are cut and joined for a system: facts of a result.

    Args:
        system: What is scored.
        task: Its task.
        given: The settings.
        reach: How many passages a query finds, the excluded one included.

    Raises:
        ConfigError: As :func:`llama2vec.score.windows.windows_of`.
    """
    limit = system.encoder.contract.encoder.passage_max_tokens if system.encoder else None
    windows = windows_of(system.name, task, given, limit)
    search: dict[str, Any] = {}
    if _beside_first_windows(system, windows):
        words = windows_of(BM25, task, given, None)
        # Named even so: a missing fact is that of an earlier version, whose BM25 read the model's first windows.
        search["bm25_reads"] = dataclasses.asdict(words) if words else "whole documents"
    if system.mode == "hybrid" and (reach > FUSED_DEPTH or windows):
        # Earlier versions scaled scores by all that such a search found.
        search["scaled_to"] = FUSED_DEPTH
    found: dict[str, Any] = {"windows": dataclasses.asdict(windows) if windows else None}
    return {**found, "search": {**system.search_facts(given.language), **search}} if search else found


def windows_in(settings: Mapping[str, Any]) -> tuple[WindowSettings | None, WindowSettings | None]:
    """Return the windows of :func:`window_facts`: those of the system, and those of BM25 beside its first windows."""
    found = settings["windows"], settings.get("search", {}).get("bm25_reads")
    system, words = (WindowSettings(**one) if isinstance(one, Mapping) else None for one in found)
    return system, words


def _beside_first_windows(system: System, windows: WindowSettings | None) -> bool:
    """Tell whether BM25 joins a model that reads the first windows; it then searches as it does alone.

    The model's limit does not concern BM25, which finds words at the end of a document as well.
    """
    return system.mode == "hybrid" and windows is not None and windows.kind == "firstp"


def returned_passages(system: System, task: BeirTask) -> set[str]:
    """Return the ids that a system's run has for the queries of a task; nothing where the system searches itself.

    Raises:
        EvaluationError: The run answers none of the queries.
    """
    if system.run is None:
        return set()
    answers = [system.run.results.get(query.id, {}) for query in task.queries]
    if not any(answers):
        asked = counted(len(answers), "judged query", "judged queries")
        problem = f"{task.name}: run {system.name!r} answers none of {asked}"
        raise EvaluationError(f"{problem}; is it of another task or split?")
    return set[str]().union(*answers)


def check_run(system: System, task: BeirTask, metrics: Iterable[str], corpus: CorpusFacts, returned: Set[str]) -> None:
    """Warn where a run fits a task only in part: in the passages that it ``returned``, its queries or its depth.

    Raises:
        EvaluationError: Most of what it returned is not in the corpus.
    """
    assert system.run is not None
    check_returned(system.name, returned, corpus.unknown, task.corpus_source)
    answers = [system.run.results.get(query.id, {}) for query in task.queries]
    lengths = [len(found) for found in answers if found]
    if lacks := len(answers) - len(lengths):
        asked = f"{counted(len(answers), 'judged query', 'judged queries')} of {task.name}"
        warn_of_missing_queries(system.name, lacks, asked)
    warn_of_short_run(system.name, lengths, metrics, corpus.passages, task.name)


@dataclass(frozen=True, slots=True)
class Searching:
    """How a task's corpus is searched; documents are cut into ``windows`` of the tokens that ``token_spans`` finds."""

    depth: int = 1000
    excluded: Set[str] = frozenset()  # Ids of the queries for which the passage of the same id is skipped
    windows: WindowSettings | None = None
    word_windows: WindowSettings | None = None  # Those of BM25 beside a model's first windows; None = whole documents
    token_spans: TokenSpans = word_spans
    language: str = "en"
    reading: ReadingSettings = dataclasses.field(default_factory=ReadingSettings)
    inputs: SteadyInputs = dataclasses.field(default_factory=SteadyInputs)  # Those that the task was recognized by

    def units(self, task: BeirTask) -> Iterator[Passage]:
        """Stream what is indexed: passages, or windows of documents."""
        passages = self.inputs.read(read_passages(task.corpus_source, settings=self.reading))
        return cut_documents(passages, self.windows, self.token_spans) if self.windows else passages


@dataclass(frozen=True, slots=True)
class Stores:
    """Where encoded corpora are."""

    folder: Path | None = None  # Corpora are kept here, and those found here used; None = encode, and remove afterwards
    known: tuple[Path, ...] = ()  # Further finished stores that may be used

    def find(
        self,
        contract_hash: str,
        fingerprint: str,
        windows: Mapping[str, Any] | None,
        reading: Mapping[str, Any] | None = None,
        *,
        dtype: str = "",
    ) -> VectorStore | None:
        """Return a finished store of this corpus, read and cut like this, under this contract; None = there is none.

        With ``dtype``, a store that was computed in another number format is left out, because the scores name it.
        Rounded vectors are taken only if no exact ones fit, with a warning.
        """
        folder = self.folder
        # Passages that documents were split into have ids that no judgment names.
        made_from = {"fingerprint": fingerprint, "windows": windows, "reading": reading or None, "passages": None}
        found: list[VectorStore] = []
        places = [folder, *sorted(folder.iterdir())] if folder is not None and folder.is_dir() else []
        for place in (*self.known, *places):
            if not (place / STORE_FILE).is_file():
                continue
            try:
                store = VectorStore.open(place)
            except StoreError:
                # Damaged or of another version; encoding repairs its own.
                continue
            same = all(store.source.get(key) == value for key, value in made_from.items())
            is_other = dtype and store.compute_dtype not in ("", dtype)
            if same and store.contract_hash == contract_hash and not is_other:
                found.append(store)
        best = min(found, key=lambda store: store.dtype != "float32", default=None)
        if best:
            best.verify()
            tidy(best.path, STORE)
            if best.dtype != "float32":
                logger.warning("%s holds vectors rounded to %s, and the scores are theirs", best.path, best.dtype)
        return best


def encode_corpus(
    encoder: Encoder, task: BeirTask, searching: Searching, folder: Path, *, fingerprint: str, total: int
) -> VectorStore:
    """Encode a task's passages or windows into a store; resumable, and several processes may share the work."""
    source: dict[str, object] = {"corpus": task.corpus_source, "fingerprint": fingerprint}
    if searching.reading.choices:
        source["reading"] = searching.reading.choices
    if searching.windows:
        source["windows"] = dataclasses.asdict(searching.windows)
    return write_store(
        lambda: searching.units(task), encoder, folder, source=source, shard_size=_SHARD_SIZE,
        total=None if searching.windows else total,
    )  # fmt: skip


def search_task(system: System, task: BeirTask, searching: Searching, store: VectorStore | None) -> Run:
    """Search a task's queries with BM25 (``store`` is None), or in the corpus as the system's encoder sees it."""
    depth, excluded = searching.depth, searching.excluded
    warn_of_unanswerable_queries(task.qrels, task.name)
    if system.run is not None:
        found = {query.id: system.run.results[query.id] for query in task.queries if query.id in system.run.results}
        return first_of_each(kept_apart(Run(found, system.name), system.ties), depth, excluded)
    warn_of_empty_queries(task.queries, task.name)
    if store is not None:
        warn_of_cut_queries(system.encoder, task.queries, "raise query_max_tokens", where=task.name)
    if store is None:
        return _search_words(task, searching, system.name)
    if _beside_first_windows(system, searching.windows):
        return _search_by_document(system, task, searching, store)
    is_hybrid = system.mode == "hybrid"
    bm25 = Bm25Index.build(store_passages(store), **bm25_settings(searching.language)) if is_hybrid else None
    retriever = Retriever(ExactIndex(store), system.encoder, bm25=bm25)

    def search_units(queries: Sequence[Query], reach: int) -> Run:
        return retriever.search(queries, system.mode, min(reach, len(store)), tag=system.name, warns=False)

    return _ranked(search_units, task, searching)


def _ranked(search_units: Callable[[Sequence[Query], int], Run], task: BeirTask, searching: Searching) -> Run:
    """Return a task's run from what finds passages, or windows of documents."""
    depth, excluded = searching.depth, searching.excluded
    if searching.windows:
        return search_documents(search_units, task.queries, depth=depth, excluded=excluded)
    return first_of_each(search_units(task.queries, depth + bool(excluded)), depth, excluded)


def _search_words(task: BeirTask, searching: Searching, tag: str) -> Run:
    bm25 = Bm25Index.build(searching.units(task), **bm25_settings(searching.language))
    return _ranked(lambda queries, reach: bm25.search(queries, depth=reach, tag=tag), task, searching)


def _search_by_document(system: System, task: BeirTask, searching: Searching, store: VectorStore) -> Run:
    """Search by a model's first windows and by BM25 as it is alone; fuse what each gives the documents."""
    wanted = searching.depth + bool(searching.excluded)
    reach = max(wanted, FUSED_DEPTH)
    vectors = Retriever(ExactIndex(store), system.encoder)
    words = dataclasses.replace(
        searching, depth=reach, excluded=frozenset(), windows=searching.word_windows, token_spans=word_spans
    )
    runs: dict[Mode, Run] = {
        "dense": max_passage(vectors.search(task.queries, "dense", min(reach, len(store)), warns=False)),
        "bm25": _search_words(task, words, BM25),
    }
    fused = Fusion().fuse(runs, wanted)
    return first_of_each(dataclasses.replace(fused, tag=system.name), searching.depth, searching.excluded)


def score_pairs(
    encoder: Encoder, pairs: Sequence[SentencePair], *, task: str, name: str, sides: SentenceSides = "query"
) -> Report:
    """Score cosines of sentence pairs, embedded as the sides say."""
    kinds: dict[SentenceSides, tuple[Side, Side]] = {"query": ("query", "query"), "passage": ("passage", "passage")}
    first, second = kinds.get(sides, ("query", "passage"))
    read: dict[Side, dict[str, None]] = {first: {}, second: {}}
    for pair in pairs:
        read[first][pair.first] = read[second][pair.second] = None
    for side, texts in read.items():
        cut = encoder.cut(list(texts), side)
        warn_of_limit(cut, len(texts), f"raise {side}_max_tokens", noun=("sentence", "sentences"), where=task)
    vectors = {
        (side, text): vector
        for side, texts in read.items()
        for text, vector in zip(texts, getattr(encoder, _ENCODE[side])(list(texts)), strict=True)
    }
    similarities = [float(vectors[first, pair.first] @ vectors[second, pair.second]) for pair in pairs]
    gold = [pair.score for pair in pairs]
    return Report(
        task=task,
        system=name,
        metrics=score_similarities(similarities, gold),
        intervals={name: correlation_interval(name, similarities, gold) for name in ("spearman", "pearson")},
        settings={"pairs": len(pairs)},
    )
