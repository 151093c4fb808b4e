"""``llama2vec serve``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.options import Device, Dtype, EncoderSets, Prompts, load_encoder, load_store_encoder, store_spec
from llama2vec.config import load_config
from llama2vec.errors import ConfigError, MissingDependencyError
from llama2vec.serve.settings import ServeSettings

if TYPE_CHECKING:
    from llama2vec.serve.service import Loaded

logger = logging.getLogger(__name__)

_TOKEN = "LLAMA2VEC_TOKEN"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_DEFAULT = ServeSettings()


def serve_command(
    index: Annotated[
        Path | None, typer.Argument(help="Index that `index` wrote, or a vector store; left out = embeddings only.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Encoder; left out = the one the store was made with.")] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model; left out = its folder's name.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 = all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any that is free.")] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token that requests must carry; else {_TOKEN}, else none.")
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Most texts that the model reads at once.")] = _DEFAULT.max_batch,
    max_batch_tokens: Annotated[
        int, typer.Option(help="Most tokens that the model reads at once; 0 = what suits the device.")
    ] = _DEFAULT.max_batch_tokens,
    max_wait_ms: Annotated[
        float, typer.Option(help="Time that an idle model waits for more texts.")
    ] = _DEFAULT.max_wait_ms,
    max_waiting: Annotated[int, typer.Option(help="Texts that may wait before 503.")] = _DEFAULT.max_waiting,
    max_body_bytes: Annotated[int, typer.Option(help="Largest request.")] = _DEFAULT.max_body_bytes,
    max_texts: Annotated[int, typer.Option(help="Most texts of a request.")] = _DEFAULT.max_texts,
    max_characters: Annotated[int, typer.Option(help="Longest text of a request.")] = _DEFAULT.max_characters,
    max_depth: Annotated[int, typer.Option(help="Most passages of an answer.")] = _DEFAULT.max_depth,
    timeout: Annotated[float, typer.Option(help="Seconds until 504.")] = _DEFAULT.timeout_seconds,
    grace: Annotated[
        float, typer.Option(help="Seconds that requests in flight get when told to stop.")
    ] = _DEFAULT.grace_seconds,
    prompts: Prompts = None,
    sets: EncoderSets = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Serve embeddings in OpenAI's format, search, and a search page."""
    limits = {
        "max_batch": max_batch, "max_batch_tokens": max_batch_tokens, "max_wait_ms": max_wait_ms,
        "max_waiting": max_waiting, "max_body_bytes": max_body_bytes, "max_texts": max_texts,
        "max_characters": max_characters, "max_depth": max_depth, "timeout_seconds": timeout, "grace_seconds": grace,
    }  # fmt: skip
    settings = load_config(ServeSettings, None, [f"{key}={value}" for key, value in limits.items()])
    if index is None and model is None:
        raise ConfigError("name an index to search, or an encoder with --model to serve embeddings only")
    token = _read_token(token_file)
    try:
        from llama2vec.serve.server import listen, serve
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed; run: pip install 'llama2vec[serve]'") from error
    opened = None
    if index is not None:
        # Before anything slow, so that a wrong path is told at once.
        from llama2vec.retrieve.index import open_index

        opened = open_index(index)
    listening = listen(host, port)
    if token is None and host not in _LOOPBACK:
        logger.warning("everybody who reaches %s may ask; give --token-file or %s to change that", host, _TOKEN)

    def load() -> Loaded:
        from llama2vec.serve.model import ServedModel
        from llama2vec.serve.searching import open_for_search
        from llama2vec.serve.service import Loaded

        if opened is None or index is None:
            assert model is not None
            return Loaded(ServedModel(load_encoder(model, dtype, device, prompts, sets), name or _public_name(model)))
        encoder = load_store_encoder(opened.store, model, dtype, device, prompts, sets)
        title = _public_name(model) if model else store_spec(opened.store).title
        return open_for_search(index, encoder, name or title)

    serve(load, settings, listening, token=token, with_search=opened is not None)


def _read_token(path: Path | None) -> str | None:
    """Return the token of the file, else of the environment; None = there is none."""
    if path is None:
        return os.environ.get(_TOKEN, "").strip() or None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"--token-file {path}: cannot be read; write the token into it as text") from None
    if not token:
        raise ConfigError(f"--token-file {path}: is empty; write the token into it")
    return token


def _public_name(model: str) -> str:
    """Return what clients call a model: a hub id as it is, of a path only the last part.

    >>> _public_name("runs/2024/adapted/"), _public_name("BAAI/LLARA-passage")
    ('adapted', 'BAAI/LLARA-passage')
    """
    path = Path(model).expanduser()
    is_path = path.exists() or path.is_absolute() or len(path.parts) > 2
    return path.resolve().name if is_path else model
