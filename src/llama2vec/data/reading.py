"""How a corpus is read before it is encoded: what of it is split, and what a store says of it."""

from __future__ import annotations

from pathlib import Path

from llama2vec.data.corpus import corpus_fingerprint
from llama2vec.data.passages import Splitter
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.data.sources import is_remote, locate


def is_split(source: str | Path, settings: PassageSettings, reading: ReadingSettings | None = None) -> bool:
    """Tell whether a corpus is split under these settings: documents unless ``never``, rows only with ``always``.

    Raises:
        CorpusFormatError: No such source.
    """
    if settings.split != "auto":
        return settings.split == "always"
    return holds_documents(source, reading)


def holds_documents(source: str | Path, reading: ReadingSettings | None = None) -> bool:
    """Tell whether a corpus is a folder of documents, or one document, and no rows."""
    return not is_remote(str(source)) and locate(str(source), "corpus", reading).layout == "documents"


def documents_folder(source: str | Path, reading: ReadingSettings | None = None) -> dict[str, object]:
    """Return the absolute folder that the places of documents count from, as ``folder``; nothing for rows."""
    if not holds_documents(source, reading):
        return {}
    path = Path(source).resolve()
    return {"folder": str(path if path.is_dir() else path.parent)}


def corpus_source(
    source: str | Path, splitter: Splitter | None = None, reading: ReadingSettings | None = None
) -> dict[str, object]:
    """Return what a store says of its corpus: name, fingerprint, how it was read, and where its documents lie."""
    facts: dict[str, object] = {"corpus": str(source), "fingerprint": corpus_fingerprint(source, reading)}
    facts |= documents_folder(source, reading)
    if reading and reading.choices:
        facts["reading"] = reading.choices
    return facts | ({"passages": splitter.plan} if splitter else {})
