"""``llama2vec search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from pydantic import Field

from llama2vec.cli.answers import Answers, check_question
from llama2vec.cli.options import WHERE_HELP, Device, Dtype
from llama2vec.cli.settings_options import options_from, refuse_options
from llama2vec.config import Settings
from llama2vec.errors import ConfigError
from llama2vec.files import check_new
from llama2vec.terminal import counted, display

if TYPE_CHECKING:
    from llama2vec.retrieve.search.fusion import Fusion, FusionMethod, Mode


class _Ranking(Settings):
    """How the index is searched."""

    mode: str | None = Field(
        None, description="dense, bm25 or hybrid; default: hybrid if the index has vectors and BM25, else what it has."
    )
    fusion: str = Field(
        "min-max",
        description="How hybrid combines the two rankings: min-max (scaled scores) or rrf (reciprocal ranks).",
    )
    weight: list[str] | None = Field(None, description="Weight of a mode in hybrid, such as dense=2; repeatable.")
    where: str | None = Field(None, description=WHERE_HELP)
    no_group: bool = Field(False, description="List every passage instead of the best one of each document.")


@options_from(_Ranking, "ranking", panel="Ranking")
def search_command(
    ranking: _Ranking,
    index: Annotated[Path, typer.Argument(help="Index that `index`, `sync` or `run` made, or a vector store.")],
    question: Annotated[str | None, typer.Argument(help="Omit for an interactive prompt.")] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Documents (with --no-group: passages) to show; default: 5. With --queries: passages per query; "
            "default: 1000.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    opens: Annotated[bool, typer.Option("--open", help="Open the file of the best answer.")] = False,
    queries: Annotated[str | None, typer.Option(help="File of queries (JSONL, TSV or BEIR folder).")] = None,
    run: Annotated[Path | None, typer.Option(help="TREC run to write for --queries.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Encoder or query table; default: the encoder that made the store.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run file.")] = False,
) -> None:
    """Search an index for one question, interactively, or for a file of queries (writes a TREC run)."""
    if bool(queries) != bool(run):
        raise ConfigError("--queries and --run belong together: the queries to ask and the TREC run to write")
    of_one = {"the question": question, "--json": as_json, "--open": opens, "--no-group": ranking.no_group}
    without = of_one if queries else {"--overwrite": overwrite}
    refuse_options(without, f"has no meaning {'with' if queries else 'without'} --queries and --run")
    check_question(question, "search INDEX", as_json=as_json, opens=opens)
    from llama2vec.data.tasks.trec import RUN_FILE

    check_new(run, overwrite=overwrite, inputs=[index, queries, model], kind=RUN_FILE)
    from llama2vec.retrieve.search.fusion import Fusion
    from llama2vec.retrieve.search.retriever import Retriever

    mixing = _fusion(ranking.fusion, ranking.weight or [])
    by_words = ranking.mode == "bm25"
    retriever = Retriever.open(index, model, device=device, dtype=dtype, fusion=mixing, by_words=by_words)
    chosen = cast("Mode", ranking.mode or retriever.default_mode)
    if chosen != "hybrid" and mixing != Fusion():
        raise ConfigError(
            f"--fusion and --weight set how hybrid mixes, but this search is by {chosen} alone; "
            "use them with --mode hybrid"
        )
    if chosen == "bm25":
        refuse_options({"--model": model}, "has no meaning here, because this search is by bm25 alone")
    # Before the model is loaded, which may take minutes.
    retriever.check_mode(chosen)
    if ranking.where is not None:
        retriever.fields.rows(ranking.where)
    answers = Answers(retriever, cast("Mode | None", ranking.mode), ranking.where, group=not ranking.no_group)
    if queries and run:
        _write_run(answers, queries, run, depth or 1000, overwrite=overwrite)
    elif question:
        answers.to(question, depth or 5, as_json=as_json, opens=opens)
    else:
        answers.to_each(depth or 5)


def _fusion(method: str, weights: list[str]) -> Fusion:
    from llama2vec.retrieve.search.fusion import Fusion

    shares: dict[str, float] = {}
    for weight in weights:
        name, _, number = weight.partition("=")
        if name in shares:
            raise ConfigError(f"--weight {weight}: {name} has the weight {shares[name]:g} already; give one of them")
        try:
            shares[name] = float(number)
        except ValueError:
            raise ConfigError(f"--weight {weight}: write a mode and a number, such as dense=2") from None
    return Fusion(cast("FusionMethod", method), shares)


def _write_run(answers: Answers, queries: str, run: Path, depth: int, *, overwrite: bool) -> None:
    """Search every query of a file and write a TREC run."""
    from llama2vec.data.corpus.passages import read_queries
    from llama2vec.data.tasks.beir import warn_of_empty_queries
    from llama2vec.data.tasks.ties import kept_apart
    from llama2vec.data.tasks.trec import check_id, write_run

    asked = read_queries(queries)
    warn_of_empty_queries(asked, queries)
    # TREC files hold only ids of one word: better said now than after the search.
    for query in asked:
        check_id(query.id, "query", run)
    for passage_id in answers.retriever.store.ids:
        check_id(passage_id, "passage", run)
    mode = answers.mode_now()
    tag = "llama2vec" if mode == "dense" else f"llama2vec-{mode}"
    found = answers.retriever.search(asked, mode, depth, where=answers.where, tag=tag)
    empty = sum(not found.results[query.id] for query in asked)
    if empty == len(asked):
        why = answers.why_nothing("a query", [query.text for query in asked])
        raise ConfigError(f"{run} was not written, because nothing was found: {why}")
    write_run(kept_apart(found), run, overwrite=overwrite)
    which = f", {empty:,} of which found nothing," if empty else ""
    display(f"Searched {counted(len(asked), 'query', 'queries')}{which} to depth {depth:,}: {run}")
