"""An OpenAI-compatible server, asked for embeddings over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from llama2vec.errors import BackendError, ConfigError, MissingDependencyError
from llama2vec.records import Side, Vectors
from llama2vec.terminal import counted
from llama2vec.verify.plain import adds_prompts, text_input
from llama2vec.verify.settings import NO_FIELD, ServerSettings

try:
    import httpx
except ImportError as _error:
    raise MissingDependencyError("asking a server needs httpx; run: pip install 'llama2vec[serve]'") from _error

_PROMPTS_AS_TEXT = (
    "whether the server adds the prompts: they were sent as part of the text",
    "where the server cuts a long text: texts were cut at the contract's limits before sending",
)


class EmbeddingServer:
    """``POST /v1/embeddings`` in OpenAI's format, as floats or base64.

    Args:
        folder: The saved model: its prompts are sent where the server adds none.
        settings: Address (``http://host:port``, with or without ``/v1`` or ``/v1/embeddings``) and how to ask.
        token: Bearer token.
    """

    def __init__(self, folder: Path, settings: ServerSettings, token: str | None = None) -> None:
        self.url = embeddings_address(str(settings.url))
        self.unchecked: tuple[str, ...] = ()
        self._settings = settings
        self._fixed = {
            "model": settings.served_name or folder.resolve().name,
            "encoding_format": "base64" if settings.base64 else "float",
        }
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._prompted: Callable[[Side, str], str] | None = None
        if settings.input_type_field in NO_FIELD:
            is_bare = settings.input_type_field == "none" and adds_prompts(folder)
            self._prompted = text_input(folder, servable_bare=is_bare)
            self.unchecked = () if is_bare else _PROMPTS_AS_TEXT

    def leave_out(self, ending: str) -> None:
        """Send texts without the end that the server adds by itself."""
        prompted = self._prompted
        if prompted is not None:
            self._prompted = lambda side, text: prompted(side, text).removesuffix(ending)

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Return [N, D'] float32 of all texts, asked for in one request; :class:`BackendError` if that fails."""
        if self._prompted is None:
            data = {**self._fixed, "input": list(texts), self._settings.input_type_field: side}
        else:
            data = {**self._fixed, "input": [self._prompted(side, text) for text in texts]}
        return _vectors(self.url, self._post(data), len(texts))

    def _post(self, data: dict[str, Any]) -> bytes:
        seconds = self._settings.timeout_seconds
        try:
            # httpx does not follow redirects by itself: one would carry the token elsewhere.
            answer = httpx.post(self.url, json=data, headers=self._headers, timeout=seconds)
        except httpx.TimeoutException:
            problem = f"no answer within {seconds:g} s; wait longer with --timeout"
        except httpx.ConnectError as error:
            problem = f"cannot be reached ({error}); start the server, or correct --url"
        except (httpx.LocalProtocolError, httpx.InvalidURL, ValueError) as error:
            problem = f"not a usable address or token ({type(error).__name__})"
        except httpx.HTTPError as error:
            problem = f"the connection broke ({type(error).__name__}); see the server's own log"
        else:
            if answer.status_code == 200:
                return answer.content
            problem = _refusal(answer)
        raise BackendError(f"{self.url}: {problem}")


def embeddings_address(url: str) -> str:
    """Complete a server's address.

    >>> embeddings_address("http://localhost:8000"), embeddings_address("https://h/api/v1/")
    ('http://localhost:8000/v1/embeddings', 'https://h/api/v1/embeddings')

    Raises:
        ConfigError: Not an http address.
    """
    with suppress(httpx.InvalidURL):
        if httpx.URL(url).scheme in ("http", "https") and httpx.URL(url).host:
            plain = url.rstrip("/")
            return plain if plain.endswith("/embeddings") else f"{plain.removesuffix('/v1')}/v1/embeddings"
    raise ConfigError(f"--url {url}: not an address of a server; write it as http://host:port")


def _refusal(answer: httpx.Response) -> str:
    code = answer.status_code
    if code in (401, 403):
        return f"refuses the token (HTTP {code}); set LLAMA2VEC_TOKEN or pass --token"
    if 300 <= code < 400:
        return f"redirects to {answer.headers.get('Location')} (HTTP {code}); give that address as --url"
    told = " ".join(answer.text[:4096].split())[:160]
    hint = "correct --url" if code in (404, 405) else "see the server's own log"
    return f"answers HTTP {code}{f': {told}' if told else ''}; {hint}"


def _vectors(url: str, content: bytes, count: int) -> Vectors:
    try:
        rows = json.loads(content)["data"]
        found = {int(row.get("index", place)): _vector(row["embedding"]) for place, row in enumerate(rows)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackendError(
            f"{url}: the answer is not a list of embeddings in OpenAI's format ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:80]}); is this an embeddings server?"
        ) from None
    if len(rows) != count or sorted(found) != list(range(count)):
        raise BackendError(
            f"{url}: {counted(len(rows), 'vector')} came back for {counted(count, 'text')}, with the indices "
            f"{sorted(found)[:8]}; one vector per text is needed"
        )
    if len({len(vector) for vector in found.values()}) != 1:
        raise BackendError(f"{url}: the vectors of one answer have different widths; is this an embeddings server?")
    return np.stack([found[row] for row in range(count)])


def _vector(value: Any) -> Vectors:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
    vector = np.asarray(value, dtype=np.float32)
    if vector.ndim != 1:
        raise ValueError("an embedding is not a list of numbers")
    return vector
