"""``llama2vec index``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from llama2vec.cli.options import bm25_language
from llama2vec.engines.opening import Target
from llama2vec.terminal import counted, display

if TYPE_CHECKING:
    from llama2vec.retrieve.settings import IndexKind


def index_command(
    store: Annotated[Path, typer.Argument(help="Vector store that `encode` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Index folder to make or extend.")],
    kind: Annotated[
        str | None,
        typer.Option(help="exact (the default), faiss-flat, faiss-hnsw, faiss-ivfpq, faiss-int8 or faiss-binary."),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(help="Tune the search to this recall of the ten nearest passages, such as 0.98."),
    ] = None,
    dims: Annotated[
        int | None, typer.Option(min=1, help="Index only the first N dimensions, for models trained for that.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Search the vectors in a collection that `export` made: qdrant:http://host:6333#NAME."),
    ] = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="Add BM25 over the store's texts, for hybrid search.")] = False,
    language: Annotated[
        str | None, typer.Option(help="Language of BM25's stop words and stemmer: en, de, zh, …; default: en.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Rebuild the parts that these options name; keep the others.")
    ] = False,
) -> None:
    """Build an index over a vector store, or add BM25 to an index. A store without vectors gets BM25 alone."""
    from llama2vec.retrieve.index.folder import build_index, search_facts
    from llama2vec.retrieve.settings import SearchRequest
    from llama2vec.retrieve.store.reader import VectorStore

    opened = VectorStore.open(store)
    words = bm25_language(language, bm25=bm25 or (kind is None and engine is None and not opened.has_vectors))
    made = build_index(
        opened, output, kind=cast("IndexKind | None", kind), bm25=words, overwrite=overwrite,
        search=SearchRequest(dims=dims, recall=recall, engine=Target.parse(engine) if engine else None),
    )  # fmt: skip
    if made:
        indexed = f"Indexed {counted(len(opened), 'passage')} [{', '.join(made)}] to {output}"
        display(*filter(None, [indexed, search_facts(output)]))
    else:
        display(f"{output} is already done; nothing to do")
