"""``llama2vec encode``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from llama2vec.cli.options import (
    ENCODER_KEYS,
    OF_ENCODER,
    CorpusSettings,
    EncoderLoading,
    Strict,
    already_done,
    corpus_settings,
    load_encoder,
    model_settings,
    model_spec,
    print_reading,
    report,
    set_option,
)
from llama2vec.cli.settings_options import lists_settings, options_from
from llama2vec.data.corpus.passages import read_once, read_passages
from llama2vec.data.corpus.reading import corpus_source
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.files import check_inputs
from llama2vec.retrieve.settings import PlacingSettings, StoredVectors
from llama2vec.terminal import counted

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder
    from llama2vec.model.source import ModelSpec
    from llama2vec.retrieve.store.ray_encoding import RayEncoder
    from llama2vec.retrieve.store.vllm_encoding import VllmEncoder


class _Stored(StoredVectors):
    """How the store is written."""

    shard_size: int = Field(2048, ge=1, description="Passages per shard.")


@options_from(_Stored, "stored", panel="Store")
@options_from(PlacingSettings, "placing", panel="Several machines")
@options_from(EncoderLoading, "loading", panel="Model")
@lists_settings(CorpusSettings, *ENCODER_KEYS)
def encode_command(
    stored: _Stored,
    placing: PlacingSettings,
    loading: EncoderLoading,
    model: Annotated[str, typer.Argument(help="Saved encoder, or any causal LM.")],
    corpus: Annotated[str, typer.Argument(help="Folder of documents, BEIR folder, JSONL, TSV, hf:… or ir:….")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the vector store.")],
    reuse: Annotated[
        Path | None, typer.Option(help="Earlier store whose vectors to reuse; only missing texts are encoded.")
    ] = None,
    strict: Strict = False,
    sets: Annotated[list[str] | None, set_option(keys=f"reading.KEY, passages.KEY, {OF_ENCODER}")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that has other settings.")] = False,
) -> None:
    """Encode a corpus into a vector store; rerun to resume.

    To share the work, use --engine ray or run it on several machines.
    """
    vectors = stored.vector_format
    check_inputs(output, [reuse, corpus, model])
    from llama2vec.model.tokens import corpus_splitter
    from llama2vec.retrieve.store.number_format import warn_of_another_format
    from llama2vec.retrieve.store.reader import VectorStore
    from llama2vec.retrieve.store.reuse import KnownVectors
    from llama2vec.retrieve.store.writer import STORE, warn_of_cut_passages, write_store

    settings, encoder_sets = corpus_settings([*(sets or ()), *(["reading.strict=true"] if strict else [])])
    found, is_done = ReadingReport(), already_done(STORE, output, overwrite=overwrite)
    with read_once():
        spec = model_spec(model, loading.prompts, encoder_sets)
        splitter = corpus_splitter(corpus, spec, settings.passages, settings.reading)
        # Read everything first: a faulty line shows now, not after hours, and leaves nothing behind.
        total = sum(1 for _ in read_passages(corpus, splitter=splitter, settings=settings.reading, report=found))
        source = corpus_source(corpus, inputs := SteadyInputs(), splitter, settings.reading)
        with _placed(model, spec, placing, loading, encoder_sets) as encoder:
            started = time.monotonic()
            known = KnownVectors(encoder, VectorStore.open(reuse), dtype=vectors) if reuse else None
            store = write_store(
                lambda: inputs.read(read_passages(corpus, splitter=splitter, settings=settings.reading)),
                known or encoder, output,
                source={**source, "model": encoder.spec.to_json(output)},
                shard_size=stored.shard_size, dtype=vectors, overwrite=overwrite, total=total,
            )  # fmt: skip
    if is_done:
        warn_of_another_format(store, loading.dtype)
    warn_of_cut_passages(store, "split them with --set passages.split=always", where=corpus)
    facts = f"{counted(len(store), 'passage')} [D={store.dimension}]"
    if is_done:
        report(f"{output} is already done: {facts}")
    else:
        taken = f", {known.reused:,} of them taken from {reuse}" if known else ""
        report(f"Encoded {facts} to {output} in {time.monotonic() - started:,.0f} s{taken}")
    print_reading(found)


@contextmanager
def _placed(
    model: str, spec: ModelSpec, placing: PlacingSettings, loading: EncoderLoading, sets: list[str]
) -> Iterator[Encoder | RayEncoder | VllmEncoder]:
    """Load the encoder in this process, or start vLLM or Ray's workers with it."""
    if placing.engine == "process":
        yield load_encoder(model, loading.dtype, loading.device, loading.prompts, sets)
        return
    settings, _ = model_settings(loading.dtype, loading.device, sets)
    if placing.engine == "vllm":
        from llama2vec.retrieve.store.vllm_encoding import VllmEncoder

        yield VllmEncoder(spec, settings)
        return
    from llama2vec.retrieve.store.ray_encoding import ray_encoder

    with ray_encoder(spec, settings, placing) as encoder:
        yield encoder
