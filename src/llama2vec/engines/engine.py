"""What every engine offers: a collection of passages with their vectors, which says what made it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from llama2vec.errors import EngineError, MissingDependencyError
from llama2vec.records import Passage
from llama2vec.records import Vectors as Vectors

Hits = list[tuple[str, float]]
"""The passages found for one query: ids with their inner products, best first."""

ABOUT = "llama2vec"
"""The key under which a collection keeps what is said about it."""

TOKEN = "LLAMA2VEC_ENGINE_TOKEN"  # noqa: S105
"""Environment variable with what an engine asks of its users: ``user:password``, an API key, or a password."""

REQUEST_SECONDS = 60
"""How long an engine that has answered once may take for one request that reads or writes passages."""

_NOWHERE = re.compile("[\0\ud800-\udfff]")
_REFUSED = re.compile(r"\b40[13]\b|unauthori|authenti|password|api.?key", re.IGNORECASE)

WORD_SPACE = 1 << 29
"""Dimensions of word vectors: the most that every engine takes, as a power of two. 0 stands for no word."""


class About(BaseModel):
    """What a collection says about itself."""

    format: Literal["llama2vec-collection"] = "llama2vec-collection"
    version: Literal[1] = 1
    contract_hash: str  # Queries need the same contract
    dimension: int
    language: str | None = None  # ISO 639 code of the words that can be searched; None = vectors alone
    mirrors: str = ""  # Hash of the store that the collection equals; "" while it is being changed
    corpus: str = ""  # Name and hash of the corpus whose passages it holds; "" = made before this was kept


@dataclass(frozen=True, slots=True)
class Entry:
    """One passage as an engine takes it."""

    passage: Passage
    vector: npt.NDArray[np.float32]  # [D], of L2 norm 1
    words: Mapping[int, float]  # Number of a word → its BM25 weight in the passage; empty without words
    digest: str  # Changes with anything above


@runtime_checkable
class Engine(Protocol):
    """One collection in one engine. Every call may raise one of ``errors``."""

    kind: str  # As in ``--to``
    place: str  # Where the collection is, without passwords, for messages
    errors: tuple[type[Exception], ...]  # What the engine's client raises
    is_exclusive: bool = (
        False  # Whether no second client can open the data while this one is open, not even of this process
    )
    has_bm25: bool = False  # Whether it searches words by its own BM25; otherwise it takes word vectors

    def about(self) -> About | None:
        """Return what the collection says about itself; None = it does not exist.

        It fails as quickly as the first answer, so that an engine that hangs is noticed before a search.

        Raises:
            EngineError: The collection was made by another program.
        """

    def create(self, about: About) -> None:
        """Create the collection."""

    def describe(self, about: About) -> None:
        """Replace what the collection says about itself."""

    def why_not(self, passage: Passage, words: int) -> str | None:
        """Return why the engine cannot hold a passage with so many different words; None = it can."""
        return None

    def digests(self) -> Iterator[Sequence[tuple[str, str]]]:
        """Yield batches of (passage id, digest) of all that the collection holds."""

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Write passages; those that the collection holds under the same id are replaced."""

    def delete(self, ids: Sequence[str]) -> None:
        """Remove passages."""

    def finish(self) -> None:
        """Let everything that was written be found by searches, and build what makes them fast."""

    def count(self) -> int:
        """Return how many passages the collection holds."""

    def search(self, vectors: Vectors, depth: int) -> list[Hits]:
        """Return for each query [Q, D] the nearest passages by inner product."""

    def close(self) -> None:
        """Let go of the connection."""


def document_id(passage_id: str) -> str:
    """Return the key of a passage in an engine: 64 digits, whatever characters and length the passage's id has.

    >>> len(document_id("it's \\ "))
    64
    """
    return hashlib.sha256(passage_id.encode()).hexdigest()


def payload(passage: Passage) -> dict[str, Any]:
    """Return what an engine keeps of a passage besides its vectors.

    >>> payload(Passage("1", "A camelid.", "Llama", fields={"year": 2020}))["fields"]
    {'year': 2020}
    """
    place = passage.place
    return {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "path": place.document if place else None,
        "page": place.page if place else None,
        "place": {name: value for name, value in asdict(place).items() if value is not None} if place else {},
        "fields": dict(passage.fields),
    }


def read_about(content: object, place: str) -> About:
    """Read what a collection says about itself, as an object or as JSON.

    Raises:
        EngineError: It says nothing, or nothing of ours.
    """
    try:
        return About.model_validate(json.loads(content) if isinstance(content, str | bytes) else content)
    except (ValidationError, ValueError):
        raise EngineError(
            f"{place} was not made by this version of `llama2vec export`; choose another --collection"
        ) from None


def encodable(passage: Passage) -> Passage:
    """Return a passage without half surrogate pairs and NUL, which UTF-8 and PostgreSQL cannot hold.

    They become U+FFFD; the id stays as it is. A passage without them comes back itself.
    """
    fields = {_encodable(name): _encodable(value) for name, value in passage.fields.items()}
    title, text = _encodable(passage.title), _encodable(passage.text)
    same = title == passage.title and text == passage.text and fields == passage.fields
    return passage if same else replace(passage, title=title, text=text, fields=fields)


def _encodable(value: Any) -> Any:
    return _NOWHERE.sub("\ufffd", value) if isinstance(value, str) else value


def masked(address: str) -> str:
    """Return an address without its password.

    >>> masked("https://admin:secret@search.example:9200")
    'https://admin:***@search.example:9200'
    >>> masked("host=db password=secret")
    'host=db password=***'
    """
    address = re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", address)
    return re.sub(r"(password\s*=\s*)('[^']*'|[^\s&]+)", r"\1***", address)


@contextmanager
def engine_errors(engine: Engine) -> Iterator[None]:
    """Turn what an engine's client raises into one line."""
    try:
        yield
    except engine.errors as error:
        raise EngineError(
            f"{engine.place}: {masked_line(error)}; what was written stays, and the same command continues from there"
        ) from error


def masked_line(error: BaseException) -> str:
    """Return what an engine's client says on one line of at most 300 characters, without passwords."""
    said = getattr(error, "message", "") or str(error)  # pymilvus writes its codes around its message
    text = masked(" ".join(str(said).split())).rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


def missing(package: str, extra: str) -> MissingDependencyError:
    """Return the error for a client that is not installed."""
    return MissingDependencyError(f"{package} is not installed; run: pip install 'llama2vec[{extra}]'")


def foreign(place: str, key: object) -> EngineError:
    """Return the error for an entry of a collection that `llama2vec export` did not write."""
    return EngineError(
        f"{place} holds an entry that `llama2vec export` did not write ({key!a:.80}); remove it there, or choose "
        "another --collection"
    )


def unreachable(place: str, error: BaseException) -> EngineError:
    """Return the error for an engine that does not answer, or does not let us in."""
    said = masked_line(error)
    if _REFUSED.search(said):
        return EngineError(f"{place} refuses the login ({said}); put the password or key into ${TOKEN}")
    return EngineError(f"{place} cannot be reached ({said}); check the address and that the engine runs")
