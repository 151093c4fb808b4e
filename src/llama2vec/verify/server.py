"""An OpenAI-compatible server, asked for embeddings over HTTP."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from llama2vec.errors import BackendError, ConfigError
from llama2vec.model.backbone import load_tokenizer
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.golden import Side
from llama2vec.model.pooling import Vectors
from llama2vec.verify.plain import input_as_text

_MOST_BYTES = 1 << 28


class EmbeddingServer:
    """``POST /v1/embeddings`` (OpenAI's format), floats or base64.

    Args:
        folder: The saved model: its prompts where the server adds none.
        url: ``http://host:port``, with or without ``/v1`` or ``/v1/embeddings``.
        model: What the server calls the model.
        input_type_field: Field that says "query" or "passage"; None = prompts are sent as text instead.
        base64: Ask for base64.
        token: Bearer token.
        timeout_seconds: Longest wait for an answer.
    """

    name = "http"
    live = True

    def __init__(
        self, folder: Path, *, url: str, model: str, input_type_field: str | None = "input_type", base64: bool = False,
        token: str | None = None, timeout_seconds: float = 60.0,
    ) -> None:  # fmt: skip
        self.url = embeddings_address(url)
        self.unchecked: tuple[str, ...] = ()
        self._fixed = {"model": model, "encoding_format": "base64" if base64 else "float"}
        self._field = input_type_field
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._timeout = timeout_seconds
        # A redirect would carry the token elsewhere, and turn the POST into a GET.
        self._opener = urllib.request.build_opener(_NoRedirect)
        if input_type_field is None:
            self._contract = json.loads((folder / CONTRACT_FILE).read_text(encoding="utf-8"))
            self._tokenizer: Any = load_tokenizer(str(folder))
            self._tokenizer.model_max_length = int(1e30)
            self.unchecked = (
                "whether the server adds the prompts: they were sent as part of the text",
                "where the server cuts a long text: it was cut at the contract's limits before it was sent",
            )

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Ask for all texts in one request.

        Returns:
            [N, D'] float32, in the given order.

        Raises:
            BackendError: No answer, a refusal, or something else than embeddings.
        """
        if self._field is None:
            data: dict[str, Any] = {
                **self._fixed,
                "input": [input_as_text(self._contract, self._tokenizer, side, text) for text in texts],
            }
        else:
            data = {**self._fixed, "input": list(texts), self._field: side}
        return _vectors(self.url, self._post(data), len(texts))

    def _post(self, data: dict[str, Any]) -> bytes:
        request = urllib.request.Request(self.url, json.dumps(data).encode(), self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                content: bytes = answer.read(_MOST_BYTES)
                return content
        except urllib.error.HTTPError as error:
            with error:
                refusal = _refusal(error)
            raise BackendError(f"{self.url}: {refusal}") from None
        except TimeoutError:
            raise BackendError(
                f"{self.url}: no answer within {self._timeout:g} s; wait longer with --timeout"
            ) from None
        except urllib.error.URLError as error:
            raise BackendError(
                f"{self.url}: cannot be reached ({getattr(error.reason, 'strerror', None) or error.reason}); "
                "start the server, or correct --url"
            ) from None
        except ValueError as error:
            raise BackendError(f"{self.url}: no usable address or token ({type(error).__name__})") from None
        except (http.client.HTTPException, ConnectionError) as error:
            raise BackendError(
                f"{self.url}: the connection broke ({type(error).__name__}); see the server's own log"
            ) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Refuse: what was an answer with another address becomes an error."""


def embeddings_address(url: str) -> str:
    """Complete a server's address.

    >>> embeddings_address("http://localhost:8000"), embeddings_address("https://h/api/v1/")
    ('http://localhost:8000/v1/embeddings', 'https://h/api/v1/embeddings')

    Raises:
        ConfigError: Not an http address.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise ConfigError(f"--url {url}: not an address of a server; write it as http://host:port")
    plain = url.rstrip("/")
    if plain.endswith("/embeddings"):
        return plain
    return f"{plain}/embeddings" if plain.endswith("/v1") else f"{plain}/v1/embeddings"


def _refusal(error: urllib.error.HTTPError) -> str:
    if error.code in (401, 403):
        return f"refuses the token (HTTP {error.code}); pass --token, or set LLAMA2VEC_TOKEN"
    if 300 <= error.code < 400:
        return f"redirects to {error.headers.get('Location')} (HTTP {error.code}); give that address as --url"
    try:
        told = " ".join(error.read(4096).decode(errors="replace").split())
    except OSError:
        told = ""
    said = f": {told[:160]}" if told else ""
    hint = "correct --url" if error.code in (404, 405) else "see the server's own log"
    return f"answers HTTP {error.code}{said}; {hint}"


def _vectors(url: str, content: bytes, count: int) -> Vectors:
    try:
        rows = json.loads(content)["data"]
        found = {int(row.get("index", place)): _vector(row["embedding"]) for place, row in enumerate(rows)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(
            f"{url}: the answer is not a list of embeddings in OpenAI's format ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:80]}); is this an embeddings server?"
        ) from None
    if len(rows) != count or sorted(found) != list(range(count)):
        raise BackendError(
            f"{url}: {count} texts were sent and {len(rows)} vectors came back, with the indices "
            f"{sorted(found)[:8]}; one vector a text is needed"
        )
    if len({len(vector) for vector in found.values()}) != 1:
        raise BackendError(f"{url}: the vectors of one answer have different widths; is this an embeddings server?")
    return np.stack([found[row] for row in range(count)])


def _vector(value: Any) -> Vectors:
    if isinstance(value, str):
        try:
            return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
        except binascii.Error as error:
            raise ValueError(f"no base64: {error}") from None
    vector = np.asarray(value, dtype=np.float32)
    if vector.ndim != 1:
        raise ValueError("an embedding is not a list of numbers")
    return vector
