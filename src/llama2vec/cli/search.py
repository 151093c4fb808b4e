"""``llama2vec search``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from llama2vec.cli.options import Device, Dtype
from llama2vec.errors import ConfigError
from llama2vec.files import check_new

if TYPE_CHECKING:
    from llama2vec.retrieve.fusion import Fusion, FusionMethod, Mode
    from llama2vec.retrieve.retriever import Retriever


def search_command(
    index: Annotated[Path, typer.Argument(help="Index that `index` wrote, or a vector store.")],
    question: Annotated[str | None, typer.Argument(help="Omit for an interactive prompt.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="dense, bm25 or hybrid; the default is hybrid if the index has BM25, else dense.")
    ] = None,
    queries: Annotated[str | None, typer.Option(help="File of queries (JSONL, TSV or BEIR folder).")] = None,
    run: Annotated[Path | None, typer.Option(help="TREC run to write for --queries.")] = None,
    model: Annotated[str | None, typer.Option(help="Encoder; the default is the one that made the store.")] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Passages per query: 5 for a question, 1000 for a run.")
    ] = None,
    fusion: Annotated[
        str, typer.Option(help="How hybrid mixes: min-max (scaled scores) or rrf (reciprocal ranks).")
    ] = "min-max",
    weights: Annotated[
        list[str] | None, typer.Option("--weight", help="Weight of a mode in hybrid, such as dense=2; repeatable.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run file.")] = False,
) -> None:
    """Search an index: one question, a prompt, or a file of queries to a TREC run."""
    if bool(queries) != bool(run):
        raise ConfigError("--queries and --run belong together: the queries to ask and the TREC run to write")
    if question is not None and not question.strip():
        raise ConfigError("the question is empty; write one, or leave it out for an interactive prompt")
    from llama2vec.data.trec import RUN_FILE

    check_new(run, overwrite=overwrite, inputs=[index, queries, model], kind=RUN_FILE)
    from llama2vec.retrieve.retriever import Retriever

    mixing = _fusion(mode, fusion, weights or [])
    retriever = Retriever.open(index, model, device=device, dtype=dtype, fusion=mixing)
    chosen = cast("Mode", mode or retriever.default_mode)
    # Before the model is loaded, which may take minutes.
    retriever.check_mode(chosen)
    if queries and run:
        _write_run(retriever, chosen, queries, run, depth or 1000, overwrite)
    elif question:
        _answer(retriever, chosen, question, depth or 5)
    else:
        _ask(retriever, chosen, depth or 5)


def _fusion(mode: str | None, method: str, weights: list[str]) -> Fusion:
    from llama2vec.retrieve.fusion import Fusion

    if mode not in (None, "hybrid") and (method != "min-max" or weights):
        raise ConfigError("--fusion and --weight set how hybrid mixes; use them with --mode hybrid")
    shares = {}
    for weight in weights:
        name, _, number = weight.partition("=")
        try:
            shares[name] = float(number)
        except ValueError:
            raise ConfigError(f"--weight {weight}: write a mode and a number, such as dense=2") from None
    return Fusion(cast("FusionMethod", method), shares)


def _write_run(retriever: Retriever, mode: Mode, queries: str, run: Path, depth: int, overwrite: bool) -> None:
    from llama2vec.data.corpus import read_queries
    from llama2vec.data.trec import check_id, write_run

    asked = read_queries(queries)
    # TREC files hold only ids of one word: better said now than after the search.
    for query in asked:
        check_id(query.id, "query", run)
    for passage_id in retriever.store.ids:
        check_id(passage_id, "passage", run)
    tag = "llama2vec" if mode == "dense" else f"llama2vec-{mode}"
    write_run(retriever.search(asked, mode, depth, tag=tag), run, overwrite=overwrite)
    typer.echo(f"Searched {len(asked):,} queries to depth {depth:,}: {run}")


def _ask(retriever: Retriever, mode: Mode, depth: int) -> None:
    """Read questions until an empty line or the end of input."""
    if sys.stdin.isatty():
        print(f"{len(retriever.store):,} passages. Ask a question; an empty line ends.", file=sys.stderr)
    while True:
        try:
            print("? ", end="", flush=True, file=sys.stderr)
            question = input().strip()
        except EOFError:
            break
        if not question:
            break
        _answer(retriever, mode, question, depth)


def _answer(retriever: Retriever, mode: Mode, question: str, depth: int) -> None:
    from llama2vec.retrieve.hits import snippet

    hits = retriever.hits(question, mode, depth)
    for hit in hits:
        title = hit.passage.title and f"  {hit.passage.title}"
        typer.echo(f"{hit.rank:>3}. {hit.score:.3f}  {hit.passage.id}{title}")
        typer.echo(f"     {snippet(hit.passage.text, question)}")
    if not hits:
        typer.echo("Nothing found: no passage shares a word with the question.")
