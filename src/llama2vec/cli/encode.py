"""``llama2vec encode``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from llama2vec.cli.options import Device, Dtype, EncoderSets, Prompts, load_encoder, report
from llama2vec.data.corpus import corpus_fingerprint, read_passages
from llama2vec.errors import ConfigError


def encode_command(
    model: Annotated[str, typer.Argument(help="Saved encoder, or any causal LM.")],
    corpus: Annotated[str, typer.Argument(help="BEIR folder, JSONL, TSV, folder of texts, hf:… or ir:….")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the vector store.")],
    shard_size: Annotated[int, typer.Option(help="Passages per shard; a killed run loses at most one shard.")] = 2048,
    half: Annotated[bool, typer.Option(help="Store vectors as float16.")] = False,
    reuse: Annotated[
        Path | None,
        typer.Option(help="Store of an earlier state of the corpus; texts that it has are not encoded again."),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    prompts: Prompts = None,
    sets: EncoderSets = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a store with other settings.")] = False,
) -> None:
    """Encode a corpus into a vector store; run the same command again to resume, or on more machines to share."""
    if reuse and reuse.resolve() == output.resolve():
        raise ConfigError(f"--reuse and --output are both {output}; write the new store beside the old one")
    fingerprint = corpus_fingerprint(corpus)
    # Read everything once: a faulty line shows now, not after hours, and leaves nothing behind.
    total = sum(1 for _ in read_passages(corpus))
    encoder = load_encoder(model, dtype, device, prompts, sets)
    from llama2vec.retrieve.reuse import KnownVectors
    from llama2vec.retrieve.store import VectorStore
    from llama2vec.retrieve.store_writer import write_store

    started = time.monotonic()
    vector_dtype: Literal["float32", "float16"] = "float16" if half else "float32"
    known = KnownVectors(encoder, VectorStore.open(reuse), dtype=vector_dtype) if reuse else None
    store = write_store(
        lambda: read_passages(corpus), known or encoder, output,
        source={"corpus": corpus, "fingerprint": fingerprint, "model": encoder.spec.to_json(output)},
        shard_size=shard_size, dtype=vector_dtype, overwrite=overwrite, total=total,
    )  # fmt: skip
    seconds = time.monotonic() - started
    taken = f", {known.reused:,} of them taken from {reuse}" if known else ""
    report(f"Encoded {len(store):,} passages [D={store.dimension}] to {output} in {seconds:,.0f} s{taken}")
