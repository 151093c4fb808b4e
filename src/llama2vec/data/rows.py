"""A passage as one JSON object: a line of a store's shard, and a row of a corpus that ``read`` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llama2vec.records import Passage, Place


def passage_line(passage: Passage) -> bytes:
    r"""Return a passage as a line of JSON; ``place`` and ``fields`` only where it has them.

    >>> passage_line(Passage("1", "A camelid."))
    b'{"id": "1", "title": "", "text": "A camelid."}\n'
    """
    row: dict[str, Any] = {"id": passage.id, "title": passage.title, "text": passage.text}
    if passage.place is not None:
        row["place"] = {name: value for name, value in asdict(passage.place).items() if value is not None}
    if passage.fields:
        row["fields"] = dict(passage.fields)
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold and UTF-8 cannot
        return (json.dumps(row) + "\n").encode()


def passage_of(row: Mapping[str, Any]) -> Passage:
    """Return the passage that :func:`passage_line` wrote as this object."""
    place = row.get("place")
    return Passage(row["id"], row["text"], row["title"], place and Place(**place), row.get("fields") or {})
