"""``llama2vec rerank``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from llama2vec.cli.options import READING_KEYS, DataRoot, Loading, ReadingSets, only_reading
from llama2vec.cli.settings_options import lists_settings, options_from
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import ConfigError
from llama2vec.files import check_new
from llama2vec.terminal import counted, display

if TYPE_CHECKING:
    from llama2vec.data.tasks.beir import BeirTask
    from llama2vec.records import Passage, Query


class _Reranking(Loading):
    """How the model is loaded, what it reranks, and how the result is called."""

    depth: int = Field(
        default=100, ge=1, description="Passages per query to rerank; the others keep their order and follow."
    )
    name: str | None = Field(default=None, description="Name of the new run; default: the old name with -reranked.")


@options_from(_Reranking, "reranking", panel="Reranking")
@lists_settings(READING_KEYS)
def rerank_command(
    reranking: _Reranking,
    run: Annotated[Path, typer.Argument(help="TREC run of any system.")],
    model: Annotated[
        str, typer.Option(help="Cross-encoder, sentence-transformers model or saved encoder (folder or hub id).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="TREC run to write.")],
    task: Annotated[
        str | None,
        typer.Option(help="Task with the queries and texts: a BEIR folder (PATH or PATH:SPLIT), beir/NAME, ir:ID."),
    ] = None,
    data_root: DataRoot = "data",
    queries: Annotated[
        str | None,
        typer.Option(
            help="File of queries (JSONL, TSV or BEIR folder) instead of the task's; needs --corpus or --index."
        ),
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Corpus that was searched, instead of the task's.")] = None,
    index: Annotated[Path | None, typer.Option(help="Index or store that was searched, instead of --corpus.")] = None,
    sets: ReadingSets = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --output.")] = False,
) -> None:
    """Rerank the best passages of a run with a cross-encoder; rerun to resume."""
    from llama2vec.data.tasks.trec import RUN_FILE, check_id, write_run
    from llama2vec.kept import KEPT_SCORES, KeptScores, discard_kept, discard_left, kept_path, note_replaced
    from llama2vec.score.runs import read_ranked_run
    from llama2vec.score.tasks import retrieval_task, task_places

    reading = _reading(sets, index)
    read = [run, queries, corpus, index, model, *(task_places([task], data_root) if task else ())]
    if not overwrite:
        discard_left(output, KEPT_SCORES)
    check_new(output, overwrite=overwrite, inputs=read, kind=RUN_FILE)
    _check_texts(task, queries, corpus, index)
    found = read_ranked_run(run)
    check_id(tag := reranking.name or f"{found.tag}-reranked", "name of the run", "--name")
    from llama2vec.data.tasks.beir import warn_of_empty_queries
    from llama2vec.integrations.pair_scorer import PairScorer
    from llama2vec.score.reranking import rerank

    # Before the model, which may have to be downloaded.
    asked, passages = _texts(
        retrieval_task(task, data_root, reading) if task else None, queries, corpus, index, reading
    )
    warn_of_empty_queries((query for query in asked if query.id in found.results), queries or task or "")
    scorer = PairScorer(model, reranking.device, reranking.dtype)
    kept_in = kept_path(output, KEPT_SCORES, [scorer.fingerprint, reranking.device, reranking.dtype])
    scores = KeptScores(scorer, kept_in)
    note_replaced(kept_in, output)
    try:
        reranked = rerank(found, asked, passages, scores, depth=reranking.depth, tag=tag)
    finally:
        # A later call that resumes does not read them again.
        scorer.warn_of_cut_texts()
    write_run(reranked, output, overwrite=overwrite)
    discard_kept(output, KEPT_SCORES)
    queries_done, pairs = counted(len(reranked.results), "query", "queries"), counted(scorer.scored, "pair")
    display(f"Reranked {queries_done} to depth {reranking.depth:,} with {model} ({scorer.kind}, {pairs}): {output}")


def _reading(sets: list[str] | None, index: Path | None) -> ReadingSettings:
    """Return how queries and passages are read; a ConfigError for what would change nothing beside ``--index``."""
    reading = only_reading(sets, "rerank")
    if sets and index is not None and not reading.names_fields:
        raise ConfigError(
            f"--set {sets[0]}: the passages of --index have been read already, and queries need no more than the names "
            "of their fields; drop it"
        )
    return reading


def _check_texts(task: str | None, queries: str | None, corpus: str | None, index: Path | None) -> None:
    """Raise a ConfigError where the texts of a run are not named, or twice."""
    if task is None and (queries is None or (corpus is None and index is None)):
        raise ConfigError("a run needs texts; give --task, or --queries with --corpus or --index")
    if corpus is not None and index is not None:
        raise ConfigError("--corpus and --index both bring the passages; give one of them")


def _texts(
    data: BeirTask | None, queries: str | None, corpus: str | None, index: Path | None, reading: ReadingSettings
) -> tuple[list[Query], Iterable[Passage]]:
    """Return the queries, and a stream of the passages."""
    from llama2vec.data.corpus.passages import read_passages, read_queries
    from llama2vec.retrieve.index.folder import open_index
    from llama2vec.retrieve.store.reader import store_passages

    asked = read_queries(queries, reading) if queries else data.queries if data else []
    if index is not None:
        return asked, store_passages(open_index(index).store)
    source = corpus or (data.corpus_source if data else "")
    return asked, read_passages(source, settings=reading)
