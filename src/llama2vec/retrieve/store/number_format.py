"""In which number format the vectors of a store were computed: in one for all of them, where that is known.

The contract of an encoder is the same in bfloat16 and float32, and its vectors differ by the rounding: up to 0.004 in
one number of a vector. So a store names the format (``compute_dtype`` in its settings), and whoever continues one that
was begun computes in that format. A store of an earlier version names none, nor does one whose passages were
encoded in several: it is opened, resumed and reused in any.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llama2vec.artifact import Kind, new_path, read_object
from llama2vec.errors import StoreError
from llama2vec.retrieve.store.reader import PLAN_FILE, STORE_FILE, PassageEncoder, VectorStore

logger = logging.getLogger(__name__)

FORMAT_KEY = "compute_dtype"


@runtime_checkable
class FormattedEncoder(Protocol):
    """An encoder that says in which number format it computes."""

    @property
    def dtype(self) -> str:
        """Return the format, such as ``bfloat16``; "" where it is not known."""


def compute_dtype(encoder: object) -> str:
    """Return the number format in which an encoder computes, "" for one that does not say."""
    return encoder.dtype if isinstance(encoder, FormattedEncoder) else ""


def dtype_at(output: Path) -> str:
    """Return the number format of the store that was begun at a path, or is there; "" where none names one."""
    for file in (output / PLAN_FILE, new_path(output.resolve()) / PLAN_FILE, output / STORE_FILE):
        if content := read_object(file):
            return str((content.get("settings") or {}).get(FORMAT_KEY, ""))
    return ""


def formatted(settings: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return settings of a store that name the format of its vectors, or none for ""."""
    others = {name: value for name, value in settings.items() if name != FORMAT_KEY}
    return {**others, FORMAT_KEY: dtype} if dtype else others


class StoreKind(Kind):
    """The kind of a store: one that was begun is continued in its own number format."""

    def refusal(self, there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
        """Say why a plan cannot continue a store, and what to do; a plan without a format fits any."""
        before, after = there.get(FORMAT_KEY, ""), now.get(FORMAT_KEY, "")
        if before and after and before != after:
            # A model without a saved contract has another contract in each format, which this line explains too.
            return f"begun with {before}, not {after}; pass --dtype {before}, or --overwrite"
        return super().refusal(formatted(there, ""), formatted(now, ""))


def warn_of_another_format(store: VectorStore, asked: str) -> None:
    """Say so where a finished store was computed in another format than a caller asked for; ``auto`` asks for none."""
    if store.compute_dtype and asked not in ("auto", store.compute_dtype):
        logger.warning(
            "%s was computed in %s, not %s; to encode it again, pass --overwrite",
            store.path,
            store.compute_dtype,
            asked,
        )


def check_reusable(store: VectorStore, encoder: PassageEncoder) -> None:
    """Raise a StoreError if the vectors of a store were computed in another format than an encoder computes in."""
    theirs, ours = store.compute_dtype, compute_dtype(encoder)
    if theirs and ours and theirs != ours:
        problem = f"{store.path} was computed in {theirs} and this model computes in {ours}"
        raise StoreError(f"{problem}; pass --dtype {theirs}, or leave out --reuse")
