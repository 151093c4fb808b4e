"""Find an engine by name, and write the lines of Python that search in it."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any, cast

from llama2vec.engines.engine import TOKEN, WORD_SPACE, Engine, masked
from llama2vec.engines.local import check_address, check_there, local_path
from llama2vec.engines.pgvector import candidates, nearest_sql, quoted
from llama2vec.errors import ConfigError

_ENGINES = {
    "milvus": ("milvus", "Milvus"),
    "qdrant": ("qdrant", "Qdrant"),
    "pgvector": ("pgvector", "Pgvector"),
    "lancedb": ("lance", "Lance"),
    "opensearch": ("opensearch", "OpenSearch"),
}
_COLLECTIONS = {
    "milvus": (r"[A-Za-z_][A-Za-z0-9_]{0,254}", "letters, digits and _, not a digit first"),
    "qdrant": (r"(?!\.\.?\Z)[^<>:\"/\\|?*#\0]{1,255}", 'no < > : " / \\ | ? * #'),
    "lancedb": (r"(?!\.+\Z)[A-Za-z0-9_.-]+", "letters, digits, _, - and ."),
    "opensearch": (r"[a-z0-9][a-z0-9_.-]{0,254}", "small letters, digits, _, - and ., a letter or digit first"),
    "pgvector": (r'[^\0"%#]+', 'up to 63 bytes without ", % and #'),
}
_LONGEST_TABLE = 63
"""Bytes of a name in PostgreSQL, which cuts longer ones without an error."""
ENGINES = tuple(_ENGINES)
"""The names of the engines."""

_DEFAULT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """A collection in an engine: which, where, and how it is called."""

    kind: str  # One of :data:`ENGINES`
    at: str  # Address, connection string or folder
    collection: str

    @classmethod
    def parse(cls, written: str) -> Target:
        """Read ``KIND:AT#COLLECTION``.

        Raises:
            ConfigError: The engine is unknown, a part is missing, or the address holds a password.

        >>> Target.parse("qdrant:http://localhost:6333#handbook")
        Target(kind='qdrant', at='http://localhost:6333', collection='handbook')
        """
        kind, _, rest = written.partition(":")
        at, _, collection = rest.rpartition("#")
        if kind not in _ENGINES or not at or not collection:
            form = "write ENGINE:ADDRESS#COLLECTION, such as qdrant:http://localhost:6333#handbook"
            raise ConfigError(f"{masked(written)}: {form}; the engines are {', '.join(ENGINES)}")
        if masked(at) != at:
            raise ConfigError(f"{masked(written)}: an index would keep this password; put it into ${TOKEN}")
        return cls(kind, at, collection)

    @property
    def path(self) -> Path | None:
        """The folder of an engine without a server; None for a server."""
        return local_path(self.kind, self.at)

    def settled(self) -> Target:
        """Return the target with an absolute path, so that it means the same in every working directory."""
        return self if self.path is None else replace(self, at=str(self.path.absolute()))

    def open_existing(self) -> Engine:
        """Connect as :meth:`open` does; a folder that does not exist is an EngineError, and is not made."""
        check_there(self.kind, self.at)
        return self.open()

    def open(self, timeout: float = _DEFAULT_TIMEOUT) -> Engine:
        """Connect to the engine; one without a server makes its folder.

        Raises:
            ConfigError: The engine is unknown, or cannot have a collection of this name.
            OutputExistsError: The folder holds something else.
            MissingDependencyError: The engine's client is not installed.
            EngineError: It does not answer within ``timeout`` seconds.
        """
        self._module()
        form, words = _COLLECTIONS[self.kind]
        is_long = self.kind == "pgvector" and len(self.collection.encode()) > _LONGEST_TABLE
        if not re.fullmatch(form, self.collection) or is_long:
            raise ConfigError(f"--collection {self.collection!a}: {self.kind} takes names of {words}")
        check_address(self.kind, self.at)
        opener = cast("Callable[..., Engine]", getattr(self._module(), _ENGINES[self.kind][1]))
        return opener(self.at, self.collection, token=os.environ.get(TOKEN, ""), timeout=timeout)

    def snippet(self, model: str, dimension: int, language: str | None) -> str:
        """Return Python that loads the encoder, checks the contract and searches the collection, in any folder.

        Args:
            model: Path or name of the encoder.
            dimension: Width of the vectors.
            language: That of the words; None = vectors alone.
        """
        module, is_remote = self._module(), "://" in self.at
        text = module.SNIPPET + (module.WORDS_SNIPPET if language else "") + getattr(module, "LAST_OF_SNIPPET", "")
        at = self.settled().at
        shown = masked(at)
        values = {"model": model, "at": shown, "collection": self.collection, "language": language}
        token = f', api_key=os.environ.get("{TOKEN}")' if is_remote else ""
        text = text if shown == at else f"# Put the password in the place of ***.\n{text}"
        return Template(text).substitute(
            {name: repr(value) for name, value in values.items()},
            where="url" if is_remote else "path",
            token=token,
            nearest=repr(
                nearest_sql(re.sub(r"[{}]", r"\g<0>\g<0>", quoted(self.collection)), dimension, "{condition}")
            ),
            reach=candidates(dimension, 10),
            word_space=WORD_SPACE,
        )

    def _module(self) -> Any:
        if self.kind not in _ENGINES:
            raise ConfigError(f"unknown engine {self.kind!r}; choose one of {', '.join(ENGINES)}")
        return importlib.import_module(f"llama2vec.engines.{_ENGINES[self.kind][0]}")
