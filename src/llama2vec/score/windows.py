"""How the documents of a task are cut for a system: into windows of its limit, by their start, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from llama2vec.data.documents.windows import WindowSettings
from llama2vec.errors import ConfigError
from llama2vec.score.settings import ScoringSettings
from llama2vec.score.tasks import Task


def windows_of(name: str, task: Task, given: ScoringSettings, limit: int | None) -> WindowSettings | None:
    """Return how a task's documents are cut for a system; None = not at all.

    BM25 has no limit: where no size is given, ``firstp`` leaves it whole documents.

    Args:
        name: The system, for errors.
        task: What is scored.
        given: The settings.
        limit: How many tokens the system's encoder reads of a passage; None = it has none, as BM25.

    Raises:
        ConfigError: Windows longer than the encoder reads, a stride that skips text or has one window alone, or nothing
            that sizes the windows of BM25.
    """
    # An encoder reads the start of a long document anyway; with the rest cut off, it need not be tokenized.
    kind = given.windows or ("firstp" if task.long_documents and limit else None)
    if kind is None:
        return None
    if kind == "firstp" and given.stride:
        raise ConfigError("stride needs several windows of a document; set windows=maxp, or leave it out")
    tokens = given.window_tokens or limit
    if tokens is None:
        if kind == "firstp":
            return None
        raise ConfigError(f"{name} has no limit that sizes windows; set window_tokens, counted in words")
    if limit and tokens > limit:
        problem = f"windows of {tokens} tokens are longer than the {limit} that {name} reads of a text"
        raise ConfigError(f"{problem}; choose at most {limit}")
    stride = given.stride or max(1, tokens // 2)
    return WindowSettings(kind, tokens, tokens if kind == "firstp" else stride)


def check_windows_used(given: ScoringSettings, found: Sequence[object]) -> None:
    """Raise a ConfigError where a size of windows is given and none of the tasks of a system has windows."""
    if (given.window_tokens or given.stride) and not any(found):
        raise ConfigError("window_tokens and stride need windows; set windows=maxp or windows=firstp too")
