"""``llama2vec search``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from llama2vec.cli.options import Device, Dtype, load_store_encoder
from llama2vec.errors import ConfigError

if TYPE_CHECKING:
    from llama2vec.retrieve.modes import Fusion, FusionMethod, Mode, Retriever
    from llama2vec.retrieve.search import Hit


def search_command(
    index: Annotated[Path, typer.Argument(help="Index that `index` wrote, or a vector store.")],
    question: Annotated[str | None, typer.Argument(help="Left out = ask at a prompt.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="dense, bm25, sparse or hybrid; left out = hybrid where the index has BM25.")
    ] = None,
    queries: Annotated[str | None, typer.Option(help="File of queries (JSONL, TSV or BEIR folder).")] = None,
    run: Annotated[Path | None, typer.Option(help="TREC run to write for --queries.")] = None,
    model: Annotated[str | None, typer.Option(help="Encoder; left out = the one the store was made with.")] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Passages per query: 5 for a question, 1000 for a run.")
    ] = None,
    fusion: Annotated[
        str, typer.Option(help="Of hybrid: scores scaled by min-max or z-score, or rrf (reciprocal ranks).")
    ] = "min-max",
    weights: Annotated[
        list[str] | None, typer.Option("--weight", help="Of a mode in hybrid, as dense=2 or sparse=1; may be repeated.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace the run file.")] = False,
) -> None:
    """Search an index: one question, a prompt, or a file of queries to a TREC run."""
    if bool(queries) != bool(run):
        raise ConfigError("--queries and --run belong together: the queries to ask and the TREC run to write")
    if run and run.exists() and not overwrite:
        raise ConfigError(f"{run}: is there already; pass --overwrite to replace it")
    from llama2vec.retrieve.index import open_index
    from llama2vec.retrieve.modes import Retriever, carried_modes, check_mode

    store, carried = open_index(index).store, carried_modes(index)
    asked = cast("Mode", mode or carried[0])
    mixing = _fusion(asked, fusion, weights or [])
    # Before the model is loaded, which may take minutes.
    check_mode(asked, carried, index)
    encoder = None if asked == "bm25" else load_store_encoder(store, model, dtype, device)
    retriever = Retriever.open(index, encoder, fusion=mixing)
    if queries and run:
        _write_run(retriever, asked, queries, run, depth or 1000, overwrite)
    elif question:
        _answer(retriever, asked, question, depth or 5)
    else:
        _ask(retriever, asked, depth or 5)


def _fusion(mode: str, method: str, weights: list[str]) -> Fusion:
    from llama2vec.retrieve.modes import Fusion

    if mode != "hybrid" and (method != "min-max" or weights):
        raise ConfigError("--fusion and --weight say how hybrid mixes; they need --mode hybrid")
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
    from llama2vec.data.trec import write_run

    asked = read_queries(queries)
    tag = "llama2vec" if mode == "dense" else f"llama2vec-{mode}"
    write_run(retriever.search(asked, mode, depth, tag=tag), run, overwrite=overwrite)
    typer.echo(f"Searched {len(asked):,} queries to depth {depth:,}: {run}")


def _ask(retriever: Retriever, mode: Mode, depth: int) -> None:
    """Read questions until an empty line or the end of input."""
    if sys.stdin.isatty():
        print(f"{len(retriever.store):,} passages. Ask; an empty line ends.", file=sys.stderr)
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
    hits = retriever.hits(question, mode, depth)
    typer.echo("\n".join(format_hit(hit, question) for hit in hits))


def format_hit(hit: Hit, question: str) -> str:
    """Return one result as two or three lines: rank, score, id, title; then the telling part of the text."""
    from llama2vec.retrieve.search import snippet

    head = f"{hit.rank:>3}. {hit.score:.3f}  {hit.passage.id}"
    if hit.passage.title:
        head += f"  {hit.passage.title}"
    return f"{head}\n     {snippet(hit.passage.text, question)}"
