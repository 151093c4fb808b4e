"""How a corpus is read before it is encoded: what of it is split, and what a store says of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from llama2vec.artifact import read_object
from llama2vec.data.corpus.passages import corpus_sha256
from llama2vec.data.corpus.rows import write_passages
from llama2vec.data.corpus.sources import is_remote, locate
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.files import FileKind, check_new, file_sha256, write_output
from llama2vec.records import Passage

_READING_FILE = FileKind("what `llama2vec read` says of its passages", rb'\{\s*"reading": ')


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
    """Return the absolute folder that the places of documents count from, as ``folder``; nothing for other rows.

    A file of passages that :func:`write_read_passages` wrote knows it too, as long as it is the same.
    """
    if is_remote(str(source)):
        return {}
    path = Path(source).resolve()
    if not holds_documents(source, reading):
        known = read_object(reading_path(path)) or {}
        same = path.is_file() and known.get("sha256") == corpus_sha256(path)
        return {"folder": known["folder"]} if same and isinstance(known.get("folder"), str) else {}
    return {"folder": str(path if path.is_dir() else path.parent)}


def reading_path(path: Path) -> Path:
    """Return where a file of passages says what it was read from.

    >>> reading_path(Path("manuals.jsonl")).name
    'manuals.jsonl.reading.json'
    """
    return path.with_name(f"{path.name}.reading.json")


def write_read_passages(
    passages: Iterable[Passage], path: Path, source: str, reading: ReadingSettings, report: ReadingReport, *,
    overwrite: bool = False,
) -> int:  # fmt: skip
    """Write what was read of documents as JSONL and, next to it, where they lie and what could not be read.

    Args:
        passages: Of ``source``, which fill ``report`` while they are read.
        path: File that ends in ``.jsonl``.
        source: The documents, or another corpus, of which no such file is written.
        reading: How they are read.
        report: What was read of them, and what not.
        overwrite: Replace such a file.

    Returns:
        How many passages there are.

    Raises:
        OutputExistsError, ConfigError: As :func:`llama2vec.data.corpus.rows.write_passages`.
    """
    where = documents_folder(source, reading)
    if where:
        check_new(reading_path(path), overwrite=True, kind=_READING_FILE)
    count = write_passages(passages, path, inputs=[source], overwrite=overwrite)
    if where:
        entries = (report.skipped, report.partly, report.noted)
        skipped, partly, noted = ([asdict(one) for one in some] for some in entries)
        known: dict[str, object] = {
            "reading": "of the passages that `llama2vec read` wrote", "sha256": file_sha256(path), **where,
            "files": report.files, "documents": report.documents, "skipped": skipped, "partly_read": partly,
            "noted": noted,
        }  # fmt: skip
        content = json.dumps(known, indent=2, ensure_ascii=False) + "\n"
        write_output(reading_path(path), content, _READING_FILE, overwrite=True)
    return count


def corpus_source(
    source: str | Path, inputs: SteadyInputs, splitter: Splitter | None = None, reading: ReadingSettings | None = None
) -> dict[str, object]:
    """Return what a store says of its corpus: name, fingerprint, how it was read, and where its documents lie."""
    facts: dict[str, object] = {"corpus": str(source), "fingerprint": inputs.corpus(source, reading)}
    if not is_remote(str(source)):
        facts["place"] = str(Path(source).resolve())
    return facts | documents_folder(source, reading) | how_read(splitter, reading)


def how_read(splitter: Splitter | None, reading: ReadingSettings | None) -> dict[str, object]:
    """Return what decides the passages of a corpus besides its files; nothing where that is the default."""
    choices = reading.choices if reading else {}
    return {**({"reading": choices} if choices else {}), **({"passages": splitter.plan} if splitter else {})}
