r"""Search a pile of files as users have it: 12 programs' documentation, and questions fixed before any search.

    python -m benchmarks.quality.pile --model llama2vec-smollm2-135m --work runs/pile \
        --output benchmarks/results/pile.json

The files are the documentation folders of source releases on PyPI, pinned by their hashes, and go through the readers,
the splitter and the index of ``llama2vec ask``. ``pile_questions.json`` holds the questions with all files that answer
each; they were written from the files alone, without a search. A document stands where its best passage does, and a
question is answered if one of its files is among the first three.

Rows: vectors, BM25, and both, of the model and of all-MiniLM-L6-v2 over the same passages. Everything made stays in
``--work``; rerun the same command to resume. The index of the package registry is ``PIP_INDEX_URL``, else PyPI.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx
import numpy as np

from benchmarks.mistakes import read_own, told_in_one_line
from benchmarks.provenance import made_by
from benchmarks.quality.pile_tables import answered
from benchmarks.quality.systems import minilm
from benchmarks.quality.whole_sets_tables import JOINED, OURS, PEER, WORDS
from llama2vec.errors import ConfigError
from llama2vec.files import write_json
from llama2vec.model.source import ModelSpec, resolve_model
from llama2vec.records import Passage, Query
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.search.fusion import Mode
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.reader import Vectors, store_passages
from llama2vec.retrieve.store.writer import write_store
from llama2vec.retrieve.syncing.following import Following

QUESTIONS = Path(__file__).with_name("pile_questions.json")
RELEASES = {
    "flask-3.1.3": "0ef0e52b8a9cd932855379197dd8f94047b359ca0a78695144304cb45f87c9eb",
    "click-8.5.1": "9bbfada76703fd1d784b83eea012e3e8c6a001a876543ef104fa56aaaeb072b4",
    "jinja2-3.1.6": "0137fb05990d35f1275a587e9aee6d56da821fc83491a0fb838183be43f66d6d",
    "scrapy-2.19.0": "34130726582b64c91531162ab277c4053e558876d49ba219cb43679e71d80a87",
    "borgbackup-1.4.5": "4f9a5fe584c504b15485841236750dea16aa7cd2ddbc4a594e9d2ce5c49c4508",
    "beets-2.9.0": "3669354d0198d5b7a0a74bc6fbdcc2caaccc9cd6e02d77860310adf9b131a141",
    "gunicorn-27.0.1": "b1514965361c8b7e8107a80aa2a92636878df1ccfac6dd204a676426e04d9e3e",
    "supervisor-4.3.0": "4a2bf149adf42997e1bb44b70c43b613275ec9852c3edacca86a9166b27e945e",
    "streamlink-8.6.3": "d3602a2629b62d935a7ddc2f31dcea7797b3780654dcccbd5c3dd5b5f7e380c8",
    "coverage-7.9.2": "997024fa51e3290264ffd7492ec97d0690293ccd2b45a6cd7d82d945a4a80c8b",
    "httpie-3.2.4": "302ad436c3dc14fd0d1b19d4572ef8d62b146bcd94b505f3c2521f701e2e7a2a",
    "peewee-4.5.3": "434576afaf806428a01f84af74c42fde59372c4f6a6eba26d9b5372113344a8a",
}
FOLDERS = ("doc", "docs", "documentation", "man")
DEPTH = 100
WITH_WORDS = {system: row for row, system in JOINED.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch, index and ask."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", required=True)
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--output", type=Path, required=True)
    given = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with told_in_one_line():
        _index_and_ask(given.model, given.work, given.output)


def _index_and_ask(model: str, work: Path, output: Path) -> None:
    earlier = read_own(output, {"contract_hash": str, "files": int, "rows": dict}, "results of this command")
    spec = ModelSpec.of_source(resolve_model(model))
    folder = work / "files"
    for release, sha256 in RELEASES.items():
        if not (folder / release).is_dir():
            unpack(fetched(release, sha256), folder / release)
    started = time.monotonic()
    by_words: list[float] = []
    following = Following(
        folder,
        work / "index",
        spec,
        on_words=lambda report: by_words.append(time.monotonic() - started),
    )
    is_whole = not (work / "index").exists()
    report = following.sync()
    # A resumed index took longer than its last part shows.
    taken = {"by_words": by_words[0], "all": time.monotonic() - started} if by_words and is_whole else None
    seconds = taken or (earlier or {}).get("seconds")
    ours = Retriever.open(work / "index")
    questions = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    rows = {WORDS: ranks(ours, "bm25", questions)}
    for system, retriever in ((OURS, ours), (PEER, peer(ours, work / "peer"))):
        rows[system] = ranks(retriever, "dense", questions)
        rows[WITH_WORDS[system]] = ranks(retriever, "hybrid", questions)
    results = {
        "model": model,
        "contract_hash": ours.store.contract_hash,
        "files": report.reading.files,
        "passages": len(ours.store),
        "seconds": seconds,
        "rows": {row: summary(found, questions) for row, found in rows.items()},
    }
    write_json(output, results | made_by())
    for row, found in results["rows"].items():
        print(f"{row}: {found['answered']} of {len(questions)}, {found['first']} first, MRR@10 {found['MRR@10']:.3f}")


def fetched(release: str, sha256: str) -> bytes:
    """Return the source release that has this hash, from the package registry.

    Raises:
        ConfigError: The registry does not answer, lacks the release, or sends something else.
    """
    name = release.rpartition("-")[0]
    page = f"{os.environ.get('PIP_INDEX_URL', 'https://pypi.org/simple').rstrip('/')}/{name}/"
    listed = answer_of(page, {"Accept": "application/vnd.pypi.simple.v1+json"})
    try:
        files = [file["url"] for file in listed.json()["files"] if file["hashes"].get("sha256") == sha256]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{shown(page)} does not list packages; set PIP_INDEX_URL to another index") from None
    if not files:
        problem = f"{shown(page)} lists no file with the hash of {release}"
        raise ConfigError(f"{problem}; set PIP_INDEX_URL to an index that has it")
    url = urljoin(page, files[0])
    content = answer_of(url).content
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigError(f"{shown(url)} is damaged: its sha256 is not {sha256}; rerun the same command")
    return content


def answer_of(url: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """Return what a URL answers.

    Raises:
        ConfigError: It does not answer, or with an error.
    """
    try:
        return httpx.get(url, headers=headers, follow_redirects=True, timeout=120).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"HTTP {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else str(error)
        problem = f"{shown(url)} cannot be read ({reason or type(error).__name__})"
        raise ConfigError(f"{problem}; check the connection, or set PIP_INDEX_URL to another index") from None


def shown(url: str) -> str:
    """Return a URL without its user and password.

    >>> shown("https://me:secret@index.example/simple/")
    'https://index.example/simple/'
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def unpack(archive: bytes, folder: Path) -> None:
    """Write the documentation folders of a source release into a folder, all of them or nothing."""
    partial = folder.with_name(f"{folder.name}.partial")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if member.isfile() and path.parts and path.parts[0] in FOLDERS and ".." not in path.parts:
                content = files.extractfile(member)
                assert content is not None
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                (partial / path).write_bytes(content.read())
    partial.rename(folder)


class Peer:
    """all-MiniLM-L6-v2 as an encoder of stores and queries."""

    dimension, contract_hash = 384, PEER

    def __init__(self) -> None:
        self._embed = minilm(256)

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        """Return [N, 384] unit vectors."""
        return self._vectors([passage.full_text for passage in passages], False)

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """Return [Q, 384] unit vectors."""
        return self._vectors([query.text for query in queries], True)

    def _vectors(self, texts: list[str], queries: bool) -> Vectors:
        return np.asarray(self._embed(texts, queries)["minilm"], dtype=np.float32)


def peer(ours: Retriever, work: Path) -> Retriever:
    """Return the peer over the same passages, with BM25 beside it."""
    encoder = Peer()
    source = {"passages of": ours.store.contract_hash, "encoder": PEER}
    store = write_store(lambda: store_passages(ours.store), encoder, work / "store", source=source, overwrite=True)
    build_index(store, work / "index", bm25="en", overwrite=True)
    return Retriever.open(work / "index", encoder)  # type: ignore[arg-type]


def ranks(retriever: Retriever, mode: Mode, questions: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """Return the rank of the first document that answers each question; None = none of the first hundred does."""
    found: dict[str, int | None] = {}
    for question in questions:
        hits = retriever.hits(question["question"], mode, DEPTH, group=True)
        right = [hit.rank for hit in hits if hit.passage.place and answers(hit.passage.place.document, question)]
        found[question["id"]] = right[0] if right else None
    return found


def answers(document: str, question: Mapping[str, Any]) -> bool:
    """Tell whether a document, named by its path with perhaps a part of the file behind it, answers a question."""
    return any(document == file or document.startswith(f"{file}#") for file in question["files"])


def summary(found: Mapping[str, int | None], questions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count what was answered, as a whole and by kind."""
    right = answered(found)
    kinds: dict[str, list[str]] = {}
    for question in questions:
        kinds.setdefault(question["kind"], []).append(question["id"])
    return {
        "answered": len(right),
        "answered_by_kind": {kind: sum(key in right for key in keys) for kind, keys in sorted(kinds.items())},
        "first": sum(rank == 1 for rank in found.values()),
        "MRR@10": fmean(1 / rank if rank is not None and rank <= 10 else 0.0 for rank in found.values()),
        "ranks": dict(found),
    }


if __name__ == "__main__":
    main()
