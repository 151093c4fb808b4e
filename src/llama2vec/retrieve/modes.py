"""Search an index by vectors, by words (BM25), by the words of the embeddings (sparse), or by all of these together.

An index folder carries the modes that `llama2vec index` was asked for::

    index.json, index.faiss    dense: always there
    bm25/                      bm25
    sparse/                    sparse
                               hybrid, where there is at least one beside dense

Where there is BM25, the default is ``hybrid``: BM25 and the vectors, scores scaled by min-max. On seven sets that was
better than either of them, than reciprocal ranks, and than the same with sparse added (docs/results.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from llama2vec.errors import ConfigError, OutputExistsError, StoreError
from llama2vec.records import Query, Run
from llama2vec.retrieve.fusion import Scale, reciprocal_rank_fusion, weighted_fusion
from llama2vec.retrieve.index import Index, IndexKind, build_index, open_index
from llama2vec.retrieve.lexical import Bm25Index
from llama2vec.retrieve.nearest import Rows, Scores
from llama2vec.retrieve.parts import new_part, open_part, refuse_existing_part, store_passages, store_sha256
from llama2vec.retrieve.search import Hit, QueryEncoder, check_contract, first_of_each, results_by_id
from llama2vec.retrieve.sparse import SparseEncoder, SparseIndex
from llama2vec.retrieve.store import VectorStore

Mode = Literal["dense", "bm25", "sparse", "hybrid"]
FusionMethod = Literal["rrf"] | Scale
MODES: tuple[Mode, ...] = get_args(Mode)
_SINGLE = MODES[:-1]

FUSED_DEPTH = 1000
"""Fewest passages that each mode gives to a fusion, so that the first ranks do not depend on how many are asked for."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How ``hybrid`` makes one ranking of several.

    Attributes:
        method: ``min-max`` or ``z-score`` = scores brought to that scale; ``rrf`` = reciprocal ranks.
        weights: Mode → weight. Modes that are not named count 1, but ``sparse`` beside ``bm25`` counts 0.
    """

    method: FusionMethod = "min-max"
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        methods = ("rrf", *get_args(Scale))
        if self.method not in methods:
            raise ConfigError(f"there is no fusion {self.method!r}; choose one of {', '.join(methods)}")
        unknown = sorted(set(self.weights) - set(_SINGLE))
        if unknown:
            raise ConfigError(f"there is no mode {unknown[0]!r} to weigh; choose from {', '.join(_SINGLE)}")

    def shares(self, carried: Sequence[Mode]) -> dict[Mode, float]:
        """Return mode → weight for those of an index that count.

        >>> Fusion().shares(("hybrid", "dense", "bm25", "sparse"))
        {'dense': 1.0, 'bm25': 1.0}
        >>> Fusion(weights={"sparse": 0.5}).shares(("hybrid", "dense", "bm25", "sparse"))
        {'dense': 1.0, 'bm25': 1.0, 'sparse': 0.5}

        Raises:
            ConfigError: None counts.
        """
        single = [mode for mode in _SINGLE if mode in carried]
        usual = {mode: 0.0 if mode == "sparse" and "bm25" in single else 1.0 for mode in single}
        found = {mode: float(self.weights.get(mode, share)) for mode, share in usual.items()}
        if not any(found.values()):
            raise ConfigError("every mode has the weight 0; leave one at 1")
        return {mode: share for mode, share in found.items() if share}

    def fuse(self, runs: Mapping[Mode, Run], depth: int) -> Run:
        """Return one run from those of the modes that :meth:`shares` names."""
        shares = self.shares([*runs])
        weights = [shares[mode] for mode in runs]
        if self.method == "rrf":
            return reciprocal_rank_fusion(list(runs.values()), weights=weights, depth=depth)
        return weighted_fusion(list(runs.values()), weights=weights, scale=self.method, depth=depth)


class Retriever:
    """One corpus, searched by any mode that its index carries.

    Args:
        index: Of the vectors.
        encoder: Of the queries; None = only ``bm25`` can be asked for.
        bm25: Over the same passages, in the order of the store.
        sparse: The same.
        words: What turns queries into words; None = the encoder's own :class:`VocabularyView`.
        fusion: Of ``hybrid``.
    """

    def __init__(
        self,
        index: Index,
        encoder: QueryEncoder | None,
        *,
        bm25: Bm25Index | None = None,
        sparse: SparseIndex | None = None,
        words: SparseEncoder | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        self.index = index
        self.encoder = encoder
        self.fusion = fusion or Fusion()
        self._bm25, self._sparse, self._words = bm25, sparse, words
        if encoder is not None:
            check_contract(index, encoder)
        if sparse is not None and words is not None:
            sparse.check_encoder(words)

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: QueryEncoder | None,
        *,
        words: SparseEncoder | None = None,
        fusion: Fusion | None = None,
    ) -> Retriever:
        """Open an index folder with everything that it carries, or a vector store.

        Args:
            path: What `llama2vec index` or `encode` wrote.
            encoder: The model that encoded the corpus; None = only ``bm25`` can be asked for.
            words: What turns queries into words; None = the encoder's own view, made at the first sparse search.
            fusion: Of ``hybrid``; None = as :class:`Fusion` has it.

        Raises:
            StoreError: No index, one that is damaged or of another store, or an encoder with another contract.
        """
        path = Path(path)
        index = open_index(path)
        bm25 = sparse = None
        if (path / "bm25").is_dir():
            open_part(path / "bm25", index.store)
            bm25 = Bm25Index.load(path / "bm25", index.store.ids)
        if (path / "sparse").is_dir() and encoder is not None:
            sparse = SparseIndex.open(path / "sparse", index.store)
        return cls(index, encoder, bm25=bm25, sparse=sparse, words=words, fusion=fusion)

    @property
    def store(self) -> VectorStore:
        """Vectors and passages."""
        return self.index.store

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What can be asked for; the first is what a search takes unless told."""
        return _with_hybrid(
            dense=self.encoder is not None, bm25=self._bm25 is not None, sparse=self._sparse is not None
        )

    def search(
        self,
        queries: Sequence[Query],
        mode: Mode | None = None,
        depth: int = 100,
        *,
        tag: str | None = None,
        exclude_same_id: bool = False,
    ) -> Run:
        """Find the best passages of every query.

        Args:
            queries: Q of them.
            mode: One of :attr:`modes`; None = the first.
            depth: K, passages per query; fewer where fewer share a word with it (``bm25``, ``sparse``).
            tag: Name of the system in the run; None = the mode.
            exclude_same_id: Leave out a passage that has its query's id, where queries are themselves passages.

        Raises:
            ConfigError: There is no such mode.
            StoreError: The index does not carry the mode, or its words are another model's.
        """
        mode = mode or self._usual_mode
        run, _ = self._search(queries, mode, depth + exclude_same_id)
        return Run(first_of_each(run.results, depth, exclude_same_id=exclude_same_id), tag=tag or mode)

    def hits(self, question: str, mode: Mode | None = None, depth: int = 10) -> list[Hit]:
        """Find the best passages of one question, with their texts; arguments and errors as in :meth:`search`."""
        run, row_of_id = self._search([Query(id="question", text=question)], mode or self._usual_mode, depth)
        best = run.results["question"]
        passages = self.store.passages([row_of_id[passage_id] for passage_id in best])
        return [
            Hit(rank, score, passage)
            for rank, (score, passage) in enumerate(zip(best.values(), passages, strict=True), start=1)
        ]

    def _search(self, queries: Sequence[Query], mode: Mode, depth: int) -> tuple[Run, dict[str, int]]:
        """Return a run whose results stand best first, and the row of each passage in it."""
        check_mode(mode, self.modes, self.store.path)
        if depth < 1:
            raise ConfigError(f"the depth must be at least 1, not {depth}")
        if not queries:
            return Run({}), {}
        if mode != "hybrid":
            results, row_of_id = results_by_id(self.store, queries, *self._rows(queries, mode, depth))
            return Run(results), row_of_id
        runs: dict[Mode, Run] = {}
        row_of_id = {}
        for single in self.fusion.shares(self.modes):
            found = self._rows(queries, single, max(depth, FUSED_DEPTH))
            results, rows = results_by_id(self.store, queries, *found)
            runs[single] = Run(results)
            row_of_id |= rows
        return self.fusion.fuse(runs, depth), row_of_id

    def _rows(self, queries: Sequence[Query], mode: Mode, depth: int) -> tuple[Scores, Rows]:
        """Return the [Q, K] scores and rows of one mode; -inf and -1 where there are fewer than K."""
        if mode == "bm25" and self._bm25 is not None:
            scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
            rows = np.full((len(queries), depth), -1, dtype=np.int64)
            for place, query in enumerate(queries):
                best_scores, best = self._bm25.best(query.text, depth)
                scores[place, : len(best)], rows[place, : len(best)] = best_scores, best
            return scores, rows
        if mode == "sparse" and self._sparse is not None:
            return self._sparse.search(self._query_words().sparse([query.text for query in queries], "query"), depth)
        return self.index.search(self._query_encoder().encode_queries(queries), depth)

    @property
    def _usual_mode(self) -> Mode:
        # Without an encoder and without BM25 there is none: dense says what is missing.
        return self.modes[0] if self.modes else "dense"

    def _query_encoder(self) -> QueryEncoder:
        if self.encoder is None:
            raise ConfigError("this search needs the model that encoded the corpus; only bm25 does without")
        return self.encoder

    def _query_words(self) -> SparseEncoder:
        """Return what turns queries into words; the encoder's own view is made once."""
        if self._words is None and self._sparse is not None:
            words = vocabulary_view(self._query_encoder(), self._sparse.language)
            self._sparse.check_encoder(words)
            self._words = words
        return cast(SparseEncoder, self._words)


def carried_modes(path: str | Path) -> tuple[Mode, ...]:
    """Tell by its files what an index or a vector store can be searched by, the usual mode first; nothing is opened."""
    path = Path(path)
    return _with_hybrid(dense=True, bm25=(path / "bm25").is_dir(), sparse=(path / "sparse").is_dir())


def check_mode(mode: str, carried: Sequence[str], where: Path) -> None:
    """Make sure that an index can be searched by a mode.

    Args:
        mode: What was asked for.
        carried: What the index offers.
        where: The store's folder, or the index's.

    Raises:
        ConfigError: There is no such mode.
        StoreError: The index does not carry it; says what adds it.
    """
    if mode not in MODES:
        raise ConfigError(f"there is no search mode {mode!r}; choose one of {', '.join(MODES)}")
    if mode in carried:
        return
    option = "--bm25 or --sparse" if mode == "hybrid" else f"--{mode}"
    how = "give the model that encoded it" if mode == "dense" else f"add it: `llama2vec index STORE -o INDEX {option}`"
    raise StoreError(f"{where} cannot be searched by {mode}, only by {', '.join(carried) or 'nothing'}; {how}")


def _with_hybrid(**single: bool) -> tuple[Mode, ...]:
    carried: list[Mode] = [mode for mode in _SINGLE if single.get(mode)]
    if len(carried) < 2:
        return tuple(carried)
    # Beside sparse alone the vectors are better by themselves.
    return ("hybrid", *carried) if {"dense", "bm25"} <= {*carried} else (*carried, "hybrid")


def vocabulary_view(encoder: QueryEncoder, language: str) -> SparseEncoder:
    """Return what turns texts into words for an encoder.

    Raises:
        ConfigError: The encoder is a stand-in that has no output head.
        ModelError: The encoder's vectors are not what its head was trained to read.
    """
    from llama2vec.explain.vocabulary import VocabularyView
    from llama2vec.model.encoder import Encoder

    if not isinstance(encoder, Encoder):
        raise ConfigError("sparse search needs the model's own output head; give the encoder itself or `words`")
    return VocabularyView(encoder, language=language)


def index_store(
    store: str | Path,
    output: str | Path,
    *,
    kind: IndexKind | None = None,
    bm25: str | None = None,
    words: Callable[[], SparseEncoder] | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Make an index folder over a store, or add to one; what was not asked for stays as it is.

    Args:
        store: A finished store.
        output: The index folder, new or not.
        kind: Of the vectors' index; None = leave the one there alone where another mode is asked for, else ``exact``.
        bm25: Language of BM25's words, as ISO 639 has it; None = not asked for.
        words: Gives the model's words for sparse search, called when they are needed; None = not asked for.
        overwrite: Replace what was asked for. An index over another store goes as a whole.

    Returns:
        What was made: the kind of the vectors' index, ``bm25``, ``sparse``.

    Raises:
        OutputExistsError: Something that was asked for is there, or the folder is the index of another store.
        StoreError: No finished store, a model with another contract, or the folder cannot be written.
        MissingDependencyError: A package is not installed.
    """
    opened, output = VectorStore.open(store), Path(output)
    asked = [name for name, wanted in (("bm25", bm25 is not None), ("sparse", words is not None)) if wanted]
    there = _indexed_store(output)
    if there is not None and there != store_sha256(opened) and not overwrite:
        raise OutputExistsError(f"{output} is an index over another store; choose another folder or pass --overwrite")
    if there == store_sha256(opened):
        for name in asked:
            refuse_existing_part(output / name, overwrite=overwrite)
    made: list[str] = []
    if kind is not None or not asked or there != store_sha256(opened):
        made.append(build_index(opened, output, kind=kind or "exact", overwrite=overwrite).kind)
    if bm25 is not None:
        add_bm25(output, opened, language=bm25)
        made.append("bm25")
    if words is not None:
        SparseIndex.build(opened, words(), output / "sparse")
        made.append("sparse")
    return made


def add_bm25(output: Path, store: VectorStore, *, language: str = "en") -> None:
    """Write BM25 over the texts of a store into an index folder.

    Raises:
        ConfigError: The language is not named by its code.
        StoreError: The folder cannot be written.
        MissingDependencyError: bm25s or PyStemmer is not installed.
    """
    built = Bm25Index.build(store_passages(store), language=language)
    with new_part(output / "bm25", store, {"language": language}) as new:
        built.save(new)


def _indexed_store(output: Path) -> str | None:
    """Return the hash of the store that an index folder is over; None where there is no index."""
    try:
        return str(json.loads((output / "index.json").read_bytes())["store"]["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return ""
