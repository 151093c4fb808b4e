"""``llama2vec export``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from llama2vec.cli.options import already_done, bm25_language
from llama2vec.cli.settings_options import given_options, options_from, refuse_options
from llama2vec.config import Settings
from llama2vec.engines.engine import TOKEN
from llama2vec.engines.opening import ENGINES, Target
from llama2vec.errors import ConfigError, StoreError
from llama2vec.files import check_inputs
from llama2vec.terminal import counted, display

if TYPE_CHECKING:
    from llama2vec.model.publish.exporting import Quantization, Runtime
    from llama2vec.retrieve.store.reader import VectorStore

_ONNX, _GGUF, _FAISS = "onnx", "gguf", "faiss"
_ENCODERS: dict[str, Runtime] = {_ONNX: "onnx", _GGUF: "llama.cpp"}
_TARGETS = (*_ENCODERS, *ENGINES, _FAISS)
_QUANTIZATIONS: dict[str, Quantization] = {"none": "none", "float16": "float16", "int8": "int8"}


class _Collection(Settings):
    """What an engine gets of a store."""

    collection: str | None = Field(
        None, description="Name of the collection, table or index; default: from the corpus's name and the contract."
    )
    bm25: bool = Field(False, description="Add BM25, so that the engine also supports keyword search.")
    language: str | None = Field(
        None, description="Language of BM25's stop words and stemmer: en, de, zh, …; default: en."
    )
    snippet: bool = Field(False, description="Export nothing; print the Python code that searches.")
    timeout_seconds: float = Field(10.0, description="Seconds to wait for the engine's first answer.", gt=0)


@options_from(_Collection, "engine", panel="Vector databases")
def export_command(
    engine: _Collection,
    source: Annotated[Path, typer.Argument(help="Saved encoder (for onnx and gguf) or vector store (for all others).")],
    at: Annotated[
        str,
        typer.Option(
            "--output",
            "--at",
            "-o",
            help=f"Folder or file to write, or the engine's address; a password or key belongs in ${TOKEN}.",
        ),
    ],
    to: Annotated[str, typer.Option(help=f"What to export to: {', '.join(_TARGETS)}.")] = _ONNX,
    quantize: Annotated[
        str, typer.Option(help="Weights of onnx and gguf: none (float32), int8, or float16 (gguf).")
    ] = "none",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an exported encoder, or a collection of another corpus or of which the store lacks most.",
        ),
    ] = False,
) -> None:
    """Save an encoder as ONNX or GGUF, or copy a vector store into a vector database; rerun to update."""
    if to not in _TARGETS:
        raise ConfigError(f"--to {to}: unknown; choose from {', '.join(_TARGETS)}")
    _check_options(to, quantize, engine)
    if to in _ENCODERS:
        _export_encoder(source, Path(at), _ENCODERS[to], quantize, overwrite=overwrite)
        return
    from llama2vec.retrieve.store.reader import VectorStore

    words = bm25_language(engine.language, bm25=engine.bm25)
    store = VectorStore.open(source)
    store.check_vectors()
    target = Target(to, at, engine.collection or _default_name(store))
    check_inputs(target.path or Path(at), [store.path])
    if not engine.snippet:
        _export_store(store, target, words, replace=overwrite, timeout=engine.timeout_seconds)
        display("\nSearch it from Python:\n")
    typer.echo(_snippet(store, target, words), nl=False)


def _check_options(to: str, quantize: str, engine: _Collection) -> None:
    """Refuse options that the target does not have."""
    if quantize not in _QUANTIZATIONS:
        raise ConfigError(f"--quantize {quantize}: unknown; choose from {', '.join(_QUANTIZATIONS)}")
    unused = {} if to in ENGINES else given_options(engine)
    if to == _FAISS:
        unused.pop("--snippet", None)
    if to not in _ENCODERS and quantize != "none":
        unused["--quantize"] = quantize
    refuse_options(unused, f"has no meaning for --to {to}")


def _export_encoder(model: Path, output: Path, runtime: Runtime, quantize: str, *, overwrite: bool) -> None:
    from llama2vec.model.publish.exporting import EXPORT, export_encoder

    is_done = already_done(EXPORT, output, overwrite=overwrite)
    made = export_encoder(model, output, runtime=runtime, quantize=_QUANTIZATIONS[quantize], overwrite=overwrite)
    near = "" if made.cosine is None else f": the cosine to the encoder's own vectors is at least {made.cosine:.5f}"
    what = f"{output} is already done" if is_done else f"Saved {output}"
    display(
        f"{what} [{made.megabytes:.1f} MB]{near}; check more texts with `llama2vec verify {output} --backend {runtime}`"
    )


def _export_store(store: VectorStore, target: Target, language: str | None, *, replace: bool, timeout: float) -> None:
    count = counted(len(store), "passage")
    if target.kind == _FAISS:
        from llama2vec.retrieve.export.faiss_folder import export_faiss

        written = export_faiss(store, Path(target.at), replace=replace)
        display(f"Wrote {count} to {target.at}" if written else f"{target.at} is already done; nothing to do")
        return
    from llama2vec.retrieve.export.collection import export_store

    engine = target.open(timeout)
    try:
        done = export_store(store, engine, language=language, replace=replace)
    finally:
        engine.close()
    if not done.written and not done.removed:
        display(f"{engine.place} is already up to date ({count}); nothing to do")
    else:
        facts = f"{done.written:,} written, {done.unchanged:,} unchanged, {done.removed:,} removed"
        display(f"Exported {count} to {engine.place}: {facts}")


def _snippet(store: VectorStore, target: Target, language: str | None) -> str:
    from llama2vec.model.source import ModelSpec
    from llama2vec.retrieve.export.faiss_folder import faiss_snippet

    model, is_named = "MODEL", True
    with suppress(StoreError):
        spec = ModelSpec.of_store(store.source, store.path)
        model = spec.path or spec.name
        is_named = spec == ModelSpec(path=spec.path, name=spec.name)
    if target.kind == _FAISS:
        text = faiss_snippet(Path(target.at), model)
    else:
        text = target.snippet(model, store.dimension, language)
    if is_named:
        return text
    # Only the store knows the prompts and lengths of a model without a contract.
    place = repr(str(store.path.absolute()))
    read = f"Encoder.from_spec(ModelSpec.of_store(VectorStore.open({place}).source, {place}))"
    names = "import Encoder, VectorStore\nfrom llama2vec.model.source import ModelSpec\n"
    return text.replace("import Encoder\n", names).replace(f"Encoder.load({model!r})", read)


def _default_name(store: VectorStore) -> str:
    """Name a collection after corpus and contract, so that neither two corpora nor two models share one."""
    from llama2vec.retrieve.export.collection import named

    return "_".join(["llama2vec", *named(store), store.contract_hash[:12]])
