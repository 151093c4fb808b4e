r"""Choose the length and the overlap of passages: search long documents for what stands past the cut.

    python -m benchmarks.quality.passages --data ../shared/data --model runs/ready/checkpoint --work runs/passages \
        --output benchmarks/results/passages-smollm2-cpu.json

Documents: OpenStax sections, joined from their passages, and MedQuAD's long answers, among short answers that every row
encodes alike. Queries, all judged by document:

- ``definitions``: a definition of OpenStax's glossary; relevant are the sections that name its term past the first 512
  tokens, the most that the model reads, and not before;
- ``sentences``: eight consecutive words of a sentence past the first 512 tokens, two sentences a document;
- ``questions``: MedQuAD's own questions to the long answers, which mostly ask for what an answer says first.

Rows: ``cut`` (one vector a document, of its first tokens) and passages of several lengths and overlaps, by vectors,
BM25 and hybrid; a document scores as its best passage (MaxP). Vectors of texts stay in ``--work``; a row that the file
holds is not run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mistakes import check_format
from benchmarks.provenance import made_by
from llama2vec.data.corpus.passages import read_passages, read_queries
from llama2vec.data.documents.document import Document
from llama2vec.data.documents.splitting import Splitter, whole_passage
from llama2vec.data.documents.windows import max_passage
from llama2vec.data.settings import PassageSettings
from llama2vec.data.tasks.trec import read_qrels
from llama2vec.data.text.words import sentence_spans
from llama2vec.files import write_json
from llama2vec.model.encoder import Encoder
from llama2vec.model.tokens import token_spans
from llama2vec.records import Passage, Query, Run
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.writer import write_store
from llama2vec.score.metrics import evaluate_run

CUT = 512
LENGTHS = (64, 128, 256, 512)
OVERLAPS = (0, 8)  # A passage divided by this; 0 = none
METRICS = ("R@1", "R@10", "nDCG@10")
MODES = ("dense", "bm25", "hybrid")
DEPTH = 1000
_QUERY_WORDS = 8


@dataclass(frozen=True)
class Sample:
    """Documents, and per kind of query the queries and the relevant documents of each."""

    long: list[Document]
    short: list[Passage]
    queries: dict[str, dict[str, tuple[str, set[str]]]]


def main() -> None:
    """Score what is missing of the rows."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--work", type=Path, required=True, help="folder for the vectors of texts")
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--sections", type=int, default=36, help="OpenStax sections of 1,000 to 1,800 words")
    options.add_argument("--answers", type=int, default=60, help="MedQuAD answers of 500 to 1,200 words")
    options.add_argument("--distractors", type=int, default=400, help="MedQuAD answers of 15 to 45 words")
    arguments = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    encoder = Encoder.load(arguments.model)
    limits = {"passage_max_tokens": CUT}
    encoder.contract = replace(encoder.contract, encoder=encoder.contract.encoder.model_copy(update=limits))
    sample = draw(arguments, token_spans(encoder.backbone.tokenizer))
    facts = {
        "long documents": len(sample.long),
        "short documents": len(sample.short),
        "queries": {kind: len(queries) for kind, queries in sample.queries.items()},
    }
    logging.info("%s", facts)
    results: dict[str, Any] = {"rows": {}}
    if arguments.output.exists():
        results = json.loads(arguments.output.read_text(encoding="utf-8"))
    made_from = {"sample": facts, "contract_hash": encoder.contract_hash}
    if any(results.setdefault(name, value) != value for name, value in made_from.items()):
        sys.exit(f"{arguments.output} is of another sample or model; choose another --output")
    results |= made_by()
    known = TextCache(encoder, arguments.work)
    for name, split in rows(encoder):
        if name not in results["rows"]:
            results["rows"][name] = score(sample, split, known, arguments.work / name)
            write_json(arguments.output, results)
            logging.info("%s: %s", name, {m: results["rows"][name][m] for m in ("dense", "hybrid")})
    _print(results["rows"])


def rows(encoder: Encoder) -> Iterator[tuple[str, Callable[[Document], Sequence[Passage]]]]:
    """Yield the name of each row and how it cuts a document."""
    spans = token_spans(encoder.backbone.tokenizer)
    yield f"cut-{CUT}", lambda document: [whole_passage(document)]
    for share in OVERLAPS:
        for length in (256, 128, 512, 64):
            overlap = length // share if share else 0
            splitter = Splitter(PassageSettings(tokens=length, overlap=overlap), spans)
            yield f"split-{length}-{overlap}", lambda document, splitter=splitter: list(splitter.split(document))


def draw(arguments: argparse.Namespace, spans: Callable[[str], Sequence[tuple[int, int]]]) -> Sample:
    """Draw documents and make the queries; the same every time."""
    random_draw = random.Random(0)
    books = _sections(arguments.data / "docs" / "openstax.jsonl.gz")
    books = [book for book in books if 1000 <= len(book.text.split()) <= 1800]
    answers = list(read_passages(arguments.data / "medquad"))
    long = [one for one in answers if 500 <= len(one.text.split()) <= 1200]
    short = [one for one in answers if 15 <= len(one.text.split()) <= 45]
    sections = random_draw.sample(books, arguments.sections)
    chosen = [Document(one.id, one.text) for one in random_draw.sample(long, arguments.answers)]
    documents = [*sections, *chosen]
    deep = {document.id: _after_the_cut(document, spans) for document in documents}
    queries = {
        "definitions": _definitions(arguments.data / "pairs" / "openstax-glossary.jsonl", sections, deep),
        "sentences": _sentences(documents, deep, random_draw),
        "questions": _questions(arguments.data / "medquad", {one.id for one in chosen}),
    }
    return Sample(documents, random_draw.sample(short, arguments.distractors), queries)


def _sections(path: Path) -> list[Document]:
    found = []
    for name, group in groupby(read_passages(path), key=lambda one: one.id.rpartition("-")[0]):
        passages = list(group)
        found.append(Document(name, "\n\n".join(one.text for one in passages), passages[0].title))
    return found


def _after_the_cut(document: Document, spans: Callable[[str], Sequence[tuple[int, int]]]) -> int:
    """Return the first character of the text that the model does not read of the whole document."""
    head = f"{document.title} " if document.title else ""
    found = spans(head + document.text)
    return found[CUT][0] - len(head) if len(found) > CUT else len(document.text)


def _definitions(path: Path, sections: Sequence[Document], deep: dict[str, int]) -> dict[str, tuple[str, set[str]]]:
    found: dict[str, tuple[str, set[str]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        term = re.compile(rf"\b{re.escape(row['query'])}\b", re.IGNORECASE)
        relevant = set()
        for section in sections:
            first = term.search(section.text)
            if first and first.start() >= deep[section.id]:
                relevant.add(section.id)
        # A word that stands in many sections is not what one of them is about.
        if 1 <= len(relevant) <= 2 and not any(term.search(one.text[: deep[one.id]]) for one in sections):
            found[f"definition-{number}"] = (row["pos"][0], relevant)
    return found


def _sentences(
    documents: Sequence[Document], deep: dict[str, int], random_draw: random.Random
) -> dict[str, tuple[str, set[str]]]:
    found = {}
    for document in documents:
        rest = document.text[deep[document.id] :]
        # The first sentence may begin before the cut.
        sentences = [rest[begin:end].split() for begin, end in sentence_spans(rest)[1:]]
        long = [words for words in sentences if _QUERY_WORDS + 4 <= len(words) <= 40]
        for number, words in enumerate(random_draw.sample(long, min(2, len(long)))):
            begin = random_draw.randrange(len(words) - _QUERY_WORDS + 1)
            found[f"{document.id}-{number}"] = (" ".join(words[begin : begin + _QUERY_WORDS]), {document.id})
    return found


def _questions(folder: Path, chosen: set[str]) -> dict[str, tuple[str, set[str]]]:
    relevant: dict[str, set[str]] = defaultdict(set)
    for split in ("train", "dev", "test"):
        for query, gains in read_qrels(folder / "qrels" / f"{split}.tsv").items():
            relevant[query] |= {passage for passage, gain in gains.items() if gain > 0}
    texts = {query.id: query.text for query in read_queries(folder)}
    return {query: (texts[query], found & chosen) for query, found in relevant.items() if found & chosen}


class TextCache:
    """An encoder that keeps the vectors of all texts on the disk."""

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self.encoder, self.dimension, self.contract_hash = encoder, encoder.dimension, encoder.contract_hash
        self._file, self._known = folder / "vectors.npz", dict[str, Any]()
        check_format(folder, encoder.dtype)
        if self._file.exists():
            with np.load(self._file) as kept:
                self._known = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))

    def encode_passages(self, passages: Sequence[Passage], /) -> Any:
        """Return [N, D] vectors; those of new texts are written down."""
        keys = {one.full_text: blake2b(one.full_text.encode(), digest_size=16).hexdigest() for one in passages}
        new = [text for text, key in keys.items() if key not in self._known]
        for begin in range(0, len(new), 256):
            texts = new[begin : begin + 256]
            vectors = self.encoder.encode_passages(texts)
            self._known |= dict(zip(map(keys.__getitem__, texts), vectors, strict=True))
            np.savez(self._file, keys=np.array(list(self._known)), vectors=np.stack(list(self._known.values())))
        return np.stack([self._known[keys[one.full_text]] for one in passages])

    def encode_queries(self, queries: Sequence[Query], /) -> Any:
        """Return [Q, D] vectors."""
        return self.encoder.encode_queries(queries)


def score(
    sample: Sample, split: Callable[[Document], Sequence[Passage]], encoder: TextCache, work: Path
) -> dict[str, Any]:
    """Search the documents, cut in one way; return the metrics of each mode and kind of query."""
    parts = [passage for document in sample.long for passage in split(document)]
    passages = [*parts, *sample.short]
    document_of = {one.id: one.place.document if one.place else one.id for one in passages}
    started = time.monotonic()
    store = write_store(lambda: passages, encoder, work, source={"row": work.name}, overwrite=True)
    seconds = time.monotonic() - started
    retriever = Retriever(ExactIndex(store), encoder, bm25=Bm25Index.build(passages))
    found: dict[str, Any] = {"passages": len(parts), "seconds of encoding": round(seconds, 1)}
    for mode in MODES:
        found[mode] = {}
        for kind, made in sample.queries.items():
            queries = [Query(name, text) for name, (text, _) in made.items()]
            run = retriever.search(queries, mode, min(DEPTH, len(passages)))  # type: ignore[arg-type]
            documents = Run(
                {
                    query: dict(max_passage(Run({query: scores}), document_of.__getitem__).ranking(query)[:100])
                    for query, scores in run.results.items()
                }
            )
            qrels = {name: dict.fromkeys(relevant, 1) for name, (_, relevant) in made.items()}
            report = evaluate_run(documents, qrels, metrics=METRICS)
            found[mode][kind] = {name: round(value, 4) for name, value in report.metrics.items()}
    return found


def _print(scored: dict[str, Any]) -> None:
    kinds = list(next(iter(scored.values()))["dense"])
    print("| row | passages | " + " | ".join(f"{mode} {kind}" for kind in kinds for mode in MODES) + " |")
    print("|---|" + "---|" * (1 + len(kinds) * len(MODES)))
    for name, row in scored.items():
        cells = [f"{row[mode][kind]['R@10']:.3f}" for kind in kinds for mode in MODES]
        print(f"| {name} | {row['passages']:,} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
