r"""Make clean training pairs of collected ones: none of a test collection, no duplicates, at most so many of a file.

    python benchmarks/training_pairs.py pairs/*.jsonl.gz --data ../shared/data --limit 40000 --output runs/ready/many

Rows are ``{"query", "pos", "neg"}``. A pair is dropped if a text of it shares twelve words in a row with a passage of a
test collection (each third place is looked at), if its query is one of a test collection's or of MedQuAD's dev split,
or if a text of it is a sentence of STS-B's dev or test split. Negatives that do so are left out alone. What is dropped
is counted. ``counts.json`` in the output says how many rows of each file stayed, and why others did not.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from provenance import made_by

from llama2vec.data.beir import read_beir
from llama2vec.data.corpus import read_passages
from llama2vec.data.lines import numbered_lines
from llama2vec.data.sts import read_sentence_pairs
from llama2vec.files import write_json

SETS = ("cranfield", "cacm", "scifact", "msmarco-5k", "squad-dev", "xquad-en")
SHINGLE, STRIDE = 12, 3
_LEAST_WORDS, _MOST_WORDS = 3, 400
_WORD = re.compile(r"\w+")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="+", type=Path)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--limit", type=int, default=0, help="most rows of one file, drawn evenly; 0 = all")
    options.add_argument("--most-negatives", type=int, default=4)
    options.add_argument("--output", type=Path, required=True)
    arguments = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments.output.mkdir(parents=True, exist_ok=True)
    tests = Tests(arguments.data)
    file = arguments.output / "counts.json"
    counts: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for path in arguments.files:
        found: Counter[str] = Counter()
        rows = list(clean(read_rows(path), tests, found, arguments.most_negatives))
        if arguments.limit and len(rows) > arguments.limit:
            found["over the limit"] = len(rows) - arguments.limit
            rows = random.Random(0).sample(rows, arguments.limit)
        name = path.name.removesuffix(".gz")
        with (arguments.output / name).open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        counts[name] = {"rows": len(rows), "dropped": dict(found)}
        logging.info("%s: %s", name, counts[name])
        write_json(file, counts | made_by())


class Tests:
    """The texts that must not be trained on."""

    def __init__(self, data: Path) -> None:
        self.shingles: set[int] = set()
        self.queries: set[str] = set()
        self.sentences: set[str] = set()
        for name in SETS:
            task = read_beir(data / name)
            self.queries.update(normal(query.text) for query in task.queries)
            self._add(passage.full_text for passage in read_passages(task.corpus_source))
        held = [read_beir(data / "medquad", split=split) for split in ("dev", "test")]
        answers = {passage for task in held for gains in task.qrels.values() for passage in gains}
        self.queries.update(normal(query.text) for task in held for query in task.queries)
        self._add(row.full_text for row in read_passages(held[0].corpus_source) if row.id in answers)
        for split in ("dev", "test"):
            for pair in read_sentence_pairs(data / "stsb" / f"en-{split}.tsv"):
                self.sentences |= {normal(pair.first), normal(pair.second)}

    def _add(self, texts: Iterable[str]) -> None:
        for text in texts:
            words = words_of(text)
            self.shingles.update(hash(tuple(words[at : at + SHINGLE])) for at in range(len(words) - SHINGLE + 1))

    def hold(self, text: str) -> bool:
        """Return whether a text shares words in a row with a passage, or is a sentence of STS-B's."""
        words = words_of(text)
        if len(words) < 40 and " ".join(words) in self.sentences:
            return True
        places = range(0, len(words) - SHINGLE + 1, STRIDE)
        return any(hash(tuple(words[at : at + SHINGLE])) in self.shingles for at in places)


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def normal(text: str) -> str:
    return " ".join(words_of(text))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    for _, line in numbered_lines(path):
        yield json.loads(line)


def clean(
    rows: Iterable[dict[str, Any]], tests: Tests, dropped: Counter[str], most_negatives: int
) -> Iterator[dict[str, Any]]:
    """Return the rows that may be trained on; count the others by reason."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        query, positive = row["query"].strip(), row["pos"][0].strip()
        asked, answer = normal(query), normal(positive)
        words = len(answer.split())
        if not asked or asked == answer or words < _LEAST_WORDS:
            dropped["too short, or the query itself"] += 1
        elif (asked, answer) in seen:
            dropped["duplicate"] += 1
        elif asked in tests.queries or tests.hold(query) or tests.hold(positive):
            dropped["in a test collection"] += 1
        else:
            seen.add((asked, answer))
            if words > _MOST_WORDS:
                positive = " ".join(positive.split()[:_MOST_WORDS])
            kept = [one.strip() for one in row.get("neg") or () if normal(one) not in ("", answer, asked)]
            known = [one for one in kept[:most_negatives] if not tests.hold(one)]
            dropped["negatives in a test collection"] += len(kept[:most_negatives]) - len(known)
            yield {"query": query, "pos": [positive], "neg": known}


if __name__ == "__main__":
    main()
