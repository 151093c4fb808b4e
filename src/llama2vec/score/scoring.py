"""One model on one task → a run and a report: retrieval, sentence similarity, and BM25 beside or with them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama2vec.data.beir import BeirTask, check_judged_passages, missing_judged, read_beir
from llama2vec.data.corpus import corpus_fingerprint, read_passages
from llama2vec.data.sts import read_sentence_pairs
from llama2vec.data.windows import TokenSpans, WindowSettings, cut_documents, word_spans
from llama2vec.errors import EvaluationError, TokenizerError
from llama2vec.manifest import machine, versions
from llama2vec.records import Passage, Query, Report, Run, SentencePair
from llama2vec.retrieve.documents import search_documents, without_own
from llama2vec.retrieve.index import ExactIndex
from llama2vec.retrieve.lexical import Bm25Index
from llama2vec.retrieve.modes import FUSED_DEPTH, Fusion, Retriever
from llama2vec.retrieve.parts import store_passages
from llama2vec.retrieve.store import VectorStore
from llama2vec.retrieve.store_writer import write_store
from llama2vec.score.metrics import DEFAULT_MEASURES, evaluate_run
from llama2vec.score.significance import bootstrap_pearson_interval, bootstrap_spearman_interval
from llama2vec.score.sts import score_similarities

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder

SearchMode = Literal["dense", "hybrid"]
"""How a model's corpus is searched: by its vectors, or by these and BM25 together."""
_SHARD_SIZE = 1024
_MOST_LOST = 0.05
"""Published sets judge a few passages that their corpora lost; a corpus that lacks more is another one."""


@dataclass(frozen=True, slots=True)
class Searching:
    """How a task's corpus is searched.

    Attributes:
        depth: Passages, or documents, per query.
        exclude_same_id: Leave out the passage that has its query's id.
        windows: How documents are cut; None = every document is read whole, or as far as the encoder's limit.
        token_spans: The encoder's tokens, of which windows are made.
        language: Of BM25's words, where it takes part.
    """

    depth: int = 1000
    exclude_same_id: bool = False
    windows: WindowSettings | None = None
    token_spans: TokenSpans = word_spans
    language: str = "en"

    def units(self, task: BeirTask) -> Iterator[Passage]:
        """Stream what is indexed: the corpus' passages, or the windows of its documents."""
        passages = read_passages(task.corpus_source)
        return cut_documents(passages, self.windows, self.token_spans) if self.windows else passages


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What reading a corpus to its end showed.

    Attributes:
        passages: How many there are.
        own: Queries that stand in the corpus under their own id and text.
        lost: Judged passages that the corpus lacks.
    """

    passages: int
    own: int
    lost: int


def check_task(
    task: BeirTask, *, published: bool = False, check_passage: Callable[[Passage], None] | None = None
) -> CorpusFacts:
    """Read the whole corpus before any work: faulty lines and unknown judged passages show now, not after hours.

    Args:
        task: Its queries and judgments.
        published: The corpus may lack up to a twentieth of the judged passages.
        check_passage: Called with each passage; raises where it does not serve.

    Raises:
        EvaluationError: Judged passages that are not in the corpus.
    """
    judged = {passage_id for gains in task.qrels.values() for passage_id in gains}
    asked = {query.id: query.text.strip() for query in task.queries}
    known: set[str] = set()
    total = own = 0
    for passage in read_passages(task.corpus_source):
        total += 1
        if check_passage:
            check_passage(passage)
        if passage.id in judged:
            known.add(passage.id)
        own += asked.get(passage.id) in (passage.text.strip(), passage.full_text.strip())
    lost = len(missing_judged(task.qrels, known))
    if not published or lost > _MOST_LOST * len(judged):
        check_judged_passages(task.qrels, known)
    return CorpusFacts(total, own, lost)


def encoder_spans(encoder: Encoder) -> TokenSpans:
    """Return the function that finds an encoder's tokens in a text.

    Raises:
        TokenizerError: The tokenizer does not know where its tokens stand.
    """
    tokenizer = encoder.backbone.tokenizer
    if not tokenizer.is_fast:
        raise TokenizerError("windows need a fast tokenizer, which knows where its tokens stand; use a model with one")

    def spans(text: str) -> Sequence[tuple[int, int]]:
        # Not verbose: the text may be longer than the model reads, that is why it is cut.
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return found["offset_mapping"]  # type: ignore[no-any-return]

    return spans


# -------------------------------------------------------------------------------------------------------- searching


def bm25_run(task: BeirTask, searching: Searching, name: str = "bm25") -> Run:
    """Search a task's queries with BM25."""
    index = Bm25Index.build(searching.units(task), **bm25_settings(searching.language))
    if searching.windows:

        def search_windows(queries: Sequence[Query], depth: int) -> Run:
            return index.search(queries, depth=depth, tag=name)

        return search_documents(
            search_windows, task.queries, depth=searching.depth, exclude_same_id=searching.exclude_same_id
        )
    run = index.search(task.queries, depth=searching.depth + searching.exclude_same_id, tag=name)
    return without_own(run, searching.depth) if searching.exclude_same_id else run


def encode_corpus(
    encoder: Encoder, task: BeirTask, searching: Searching, folder: Path, *, fingerprint: str, total: int
) -> VectorStore:
    """Encode what is indexed into a store, resumably; several processes may share the work."""
    source: dict[str, object] = {"corpus": task.corpus_source, "fingerprint": fingerprint}
    if searching.windows:
        source["windows"] = dataclasses.asdict(searching.windows)
    return write_store(
        lambda: searching.units(task), encoder, folder, source=source, shard_size=_SHARD_SIZE,
        total=None if searching.windows else total,
    )  # fmt: skip


def encoder_run(
    encoder: Encoder, task: BeirTask, searching: Searching, store: VectorStore, name: str, mode: SearchMode = "dense"
) -> Run:
    """Search a task's queries in the encoded corpus."""
    settings = bm25_settings(searching.language)
    bm25 = Bm25Index.build(store_passages(store), **settings) if mode == "hybrid" else None
    retriever = Retriever(ExactIndex(store), encoder, bm25=bm25)
    if not searching.windows:
        return retriever.search(
            task.queries, mode, searching.depth, tag=name, exclude_same_id=searching.exclude_same_id
        )

    def search_windows(queries: Sequence[Query], depth: int) -> Run:
        return retriever.search(queries, mode, min(depth, len(store)), tag=name)

    return search_documents(
        search_windows, task.queries, depth=searching.depth, exclude_same_id=searching.exclude_same_id
    )


# ---------------------------------------------------------------------------------------------------------- reports


def score_bm25(
    folder: str | Path, split: str, *, measures: Sequence[str] = (), depth: int = 1000, language: str = "en"
) -> Report:
    """Score BM25 on one split of a BEIR folder."""
    task = read_beir(folder, split)
    check_task(task)
    run = bm25_run(task, Searching(depth, language=language))
    return evaluate_run(run, task.qrels, task=task.name, measures=measures or DEFAULT_MEASURES)


def score_retrieval(
    encoder: Encoder,
    folder: str | Path,
    split: str,
    *,
    name: str,
    measures: Sequence[str] = (),
    depth: int = 1000,
    store: VectorStore | Path | None = None,
    mode: SearchMode = "dense",
    language: str = "en",
) -> Report:
    """Score an encoder on one split of a BEIR folder.

    Args:
        encoder: The model.
        folder: The BEIR folder.
        split: Which judgments.
        name: Of the system in the report.
        measures: Empty = the usual ones.
        depth: Passages per query.
        store: The corpus as this encoder sees it; or the folder in which it is encoded, resumably. None = encode it
            into a temporary folder.
        mode: By the vectors, or together with BM25.
        language: Of BM25's words.
    """
    task = read_beir(folder, split)
    facts, searching = check_task(task), Searching(depth, language=language)
    if isinstance(store, VectorStore):
        run = encoder_run(encoder, task, searching, store, name, mode)
    else:
        scratch = nullcontext(str(store)) if store else tempfile.TemporaryDirectory(prefix="llama2vec-")
        with scratch as place:
            written = encode_corpus(
                encoder, task, searching, Path(place) if store else Path(place) / "store",
                fingerprint=corpus_fingerprint(task.corpus_source), total=facts.passages,
            )  # fmt: skip
            run = encoder_run(encoder, task, searching, written, name, mode)
    report = evaluate_run(run, task.qrels, task=task.name, measures=measures or DEFAULT_MEASURES)
    return with_settings(report, {**encoder_facts(encoder), **search_facts(mode, language)})


def score_similarity(encoder: Encoder, file: str | Path, *, name: str) -> Report:
    """Score an encoder on sentence pairs: cosine against the people's scores."""
    file = Path(file)
    report = similarity_report(encoder, read_sentence_pairs(file), task=f"sts/{file.stem}", name=name)
    return with_settings(report, encoder_facts(encoder))


def similarity_report(encoder: Encoder, pairs: Sequence[SentencePair], *, task: str, name: str) -> Report:
    """Score cosines of sentence pairs; both sides are read as queries."""
    sentences = list(dict.fromkeys(sentence for pair in pairs for sentence in (pair.first, pair.second)))
    row = {sentence: number for number, sentence in enumerate(sentences)}
    vectors = encoder.encode_queries(sentences)
    similarities = [float(vectors[row[pair.first]] @ vectors[row[pair.second]]) for pair in pairs]
    gold = [pair.score for pair in pairs]
    return Report(
        task=task,
        system=name,
        metrics=score_similarities(similarities, gold),
        intervals={
            "spearman": bootstrap_spearman_interval(similarities, gold),
            "pearson": bootstrap_pearson_interval(similarities, gold),
        },
        settings={"pairs": len(pairs)},
    )


def encoder_facts(encoder: Encoder) -> dict[str, object]:
    """Return what decides an encoder's vectors."""
    contract = encoder.contract
    return {
        "contract_hash": encoder.contract_hash,
        "dtype": str(encoder.backbone.model.dtype).removeprefix("torch."),
        "prompts": contract.prompts.model_dump(),
        "encoder": contract.encoder.model_dump(),
    }


def bm25_settings(language: str) -> dict[str, Any]:
    """Return what decides BM25's scores."""
    return {"language": language, "k1": 1.2, "b": 0.75}


def search_facts(mode: SearchMode, language: str) -> dict[str, object]:
    """Return what decides a ranking beside the vectors; nothing where they do alone."""
    if mode == "dense":
        return {}
    mixed = {"fusion": Fusion().method, "fused_depth": FUSED_DEPTH, "bm25": bm25_settings(language)}
    return {"search": {"mode": mode, **mixed}}


def with_settings(report: Report, facts: Mapping[str, object]) -> Report:
    """Put what made a report into its settings, with versions and machine."""
    where = {"versions": versions(), "machine": machine()}
    return dataclasses.replace(report, settings={**report.settings, **facts, **where})


def check_self_retrieval(task: BeirTask) -> None:
    """Make sure that no query's own passage, which is left out, is what it should find.

    Raises:
        EvaluationError: Names the first such query.
    """
    own = next((query_id for query_id, gains in task.qrels.items() if gains.get(query_id, 0) > 0), None)
    if own is not None:
        problem = f"the passage {own!r} is judged relevant for the query of the same id, and such passages are left out"
        raise EvaluationError(f"{task.name}: {problem}; pass --no-exclude-same-id, or correct the judgments")
