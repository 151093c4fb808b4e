"""``llama2vec serve``."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.options import ENCODER_KEYS, EncoderLoading, EncoderSets, load_encoder
from llama2vec.cli.settings_options import given_options, lists_settings, options_from, refuse_options
from llama2vec.errors import ConfigError, MissingDependencyError
from llama2vec.files import read_text
from llama2vec.serve.settings import ProxySettings, ServeSettings

if TYPE_CHECKING:
    from llama2vec.serve.loaded import Loaded

logger = logging.getLogger(__name__)

_TOKEN = "LLAMA2VEC_TOKEN"
_OF_ANOTHER = (
    "belongs to a model, and --model {} is a query table (to use both, name the model with --model and the table with "
    "--table)"
)
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@options_from(ProxySettings, "proxy", panel="Behind a reverse proxy")
@options_from(ServeSettings, "limits", panel="Limits")
@options_from(EncoderLoading, "loading", panel="Model")
@lists_settings(*ENCODER_KEYS)
def serve_command(
    limits: ServeSettings,
    proxy: ProxySettings,
    loading: EncoderLoading,
    index: Annotated[
        Path | None,
        typer.Argument(
            help="Index that `index`, `sync` or `run` made, or a vector store; omit to serve embeddings only."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Encoder; default: the one that made the store.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model for clients; default: its folder's name.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 = all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 = any free one.")] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token that requests must carry; default: ${_TOKEN}, if set.")
    ] = None,
    sets: EncoderSets = None,
) -> None:
    """Serve embeddings in OpenAI's format, search, and a search page."""
    if index is None and model is None:
        raise ConfigError("name an index to search, or an encoder with --model to serve embeddings only")
    token = _read_token(token_file)
    try:
        from llama2vec.serve.server import end_if_busy, listen, serve
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed; run: pip install 'llama2vec[serve]'") from error
    if index is not None:
        from llama2vec.retrieve.index.folder import check_index

        check_index(index)
    _check_files(limits, index)
    table, only_table = _query_table(index, model, limits.table)
    if only_table:
        refuse_options({"--name": name, "--set": sets, **given_options(loading)}, _OF_ANOTHER.format(model))
    listening = listen(host, port)
    if token is None and not _is_loopback(host):
        logger.warning("%s accepts unauthenticated requests; set --token-file or $%s to require a token", host, _TOKEN)

    named = model is not None or table is not None

    def load() -> Loaded:
        from llama2vec.retrieve.search.query_table import QueryTable
        from llama2vec.retrieve.search.retriever import Retriever
        from llama2vec.serve.loaded import Loaded, ServedModel

        retriever = Retriever.open(index) if index else None
        words = QueryTable.load(table) if table else None
        if retriever and not retriever.store.has_vectors:
            retriever.check_mode("bm25")
        if retriever and (only_table or (model is None and not retriever.store.has_vectors)):
            return Loaded.with_index(None, retriever, words, named=named)
        store = retriever.store if retriever else None
        encoder = load_encoder(model, loading.dtype, loading.device, loading.prompts, sets, store)
        served = ServedModel(encoder, name or encoder.spec.title)
        return Loaded.with_index(served, retriever, words, named=named) if retriever else Loaded(served)

    hosts = _allowed_hosts(host, proxy.allow_host)
    serve(load, limits, listening, token=token, hosts=hosts, proxy=proxy, with_search=index is not None)
    end_if_busy()


def _query_table(index: Path | None, model: str | None, table: Path | None) -> tuple[Path | None, bool]:
    """Return the folder of the query table, and whether it answers instead of a model."""
    from llama2vec.retrieve.search.query_table import is_query_table

    if table is not None and not is_query_table(table):
        raise ConfigError(f"--table {table}: holds no query table; make one with `llama2vec distill`")
    instead = model is not None and is_query_table(model)
    if (instead or table) and index is None:
        raise ConfigError(
            f"{model if instead else table}: a query table encodes queries alone; name an index to search"
        )
    if instead and table is not None:
        raise ConfigError(f"--model {model} is a query table already; drop --table, or name the encoder with --model")
    return Path(str(model)) if instead else table, instead


def _check_files(limits: ServeSettings, index: Path | None) -> None:
    """Raise a ConfigError for ``--files`` without an index, and for ``--files auto`` where it names no folder."""
    if index is None and limits.files is not None:
        raise ConfigError(f"--files {limits.files}: documents are those of an index; name one, or drop --files")
    if index is None or str(limits.files) != "auto":
        return
    from llama2vec.retrieve.index.folder import open_index
    from llama2vec.retrieve.search.hits import corpus_folder

    if corpus_folder(open_index(index).store) is None:
        raise ConfigError(f"--files auto: {index} names no folder of documents that is here; give the folder")


def _read_token(path: Path | None) -> str | None:
    """Return the token of the file, else of the environment; None = requests need none."""
    if path is None:
        return os.environ.get(_TOKEN, "").strip() or None
    try:
        token = read_text(path).strip()
    except (OSError, ValueError) as error:
        fault = error.strerror if isinstance(error, OSError) else "not valid UTF-8"
        raise ConfigError(f"--token-file {path}: cannot be read ({fault}); give a text file with the token") from None
    if not token:
        raise ConfigError(f"--token-file {path}: is empty; write the token into it")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _allowed_hosts(host: str, more: list[str]) -> Collection[str] | None:
    """Return the names that requests may call the service by; None = any, where it is meant for other machines."""
    if not more and not _is_loopback(host):
        return None
    return {name.lower() for name in (*_LOOPBACK_NAMES, host, *more)}
