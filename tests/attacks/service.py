"""Talk to a service that an attack has started."""

from __future__ import annotations

import json
import re

import httpx

_ADDRESS = re.compile(r"Serving embeddings of (\S+).* on (http://\S+)\n")
_SECONDS = 60


def is_ready(printed: str) -> bool:
    """Tell whether a service has said where it listens."""
    return _ADDRESS.search(printed) is not None


def answers(printed: str) -> str:
    """Return what a service answers to an embedding and, where it has an index, to a search."""
    found = _ADDRESS.search(printed)
    assert found is not None
    model, address = found.groups()
    said = [_post(f"{address}/v1/embeddings", {"input": "the silver river", "model": model}, ["data"])]
    if "search" in printed:
        said.append(_post(f"{address}/search", {"q": "the silver river", "depth": 3}, ["hits"]))
    return "\n".join(said)


def _post(address: str, body: dict[str, object], keys: list[str]) -> str:
    answer = httpx.post(address, json=body, timeout=_SECONDS)
    if answer.is_error:
        return f"refused {answer.status_code}"
    content = answer.json()
    return json.dumps({key: content.get(key) for key in keys})
