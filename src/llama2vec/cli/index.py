"""``llama2vec index``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from llama2vec.cli.options import Device, Dtype, check_language_option, load_store_encoder

if TYPE_CHECKING:
    from llama2vec.retrieve.index import IndexKind
    from llama2vec.retrieve.sparse import SparseEncoder


def index_command(
    store: Annotated[Path, typer.Argument(help="Vector store that `encode` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the index, new or to be added to.")],
    kind: Annotated[
        str | None, typer.Option(help="exact (a new index's default), faiss-flat, faiss-hnsw or faiss-ivfpq.")
    ] = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="Add BM25 over the store's texts.")] = False,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Add the words of the embeddings; reads the texts with the model.")
    ] = False,
    language: Annotated[str, typer.Option(help="Of stop words and stemmer: en, de, zh, …")] = "en",
    model: Annotated[
        str | None, typer.Option(help="Encoder for --sparse; left out = the one the store was made with.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace what is asked for; the rest stays.")] = False,
) -> None:
    """Build an index over a vector store, or add ways of searching to one."""
    from llama2vec.retrieve.modes import index_store
    from llama2vec.retrieve.store import VectorStore

    check_language_option(language)
    opened = VectorStore.open(store)

    def words() -> SparseEncoder:
        from llama2vec.explain.vocabulary import VocabularyView

        return VocabularyView(load_store_encoder(opened, model, dtype, device), language=language)

    made = index_store(
        store, output, kind=cast("IndexKind | None", kind), bm25=language if bm25 else None,
        words=words if sparse else None, overwrite=overwrite,
    )  # fmt: skip
    typer.echo(f"Indexed {len(opened):,} passages [{', '.join(made)}] to {output}")
