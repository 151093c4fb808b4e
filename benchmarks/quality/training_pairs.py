r"""Make clean training pairs of collected ones: none of a test collection, no duplicates, at most so many of a file.

    python -m benchmarks.quality.training_pairs pairs/*.jsonl.gz --data ../shared/data --limit 40000 \
        --output runs/ready/many

Rows are ``{"query", "pos", "neg"}``, and of several positives the first one is taken. A pair is dropped if a text of it
shares twelve words in a row with a passage of a test collection or is a shorter one, if its query is one of
a test collection's or of MedQuAD's dev split, or if a text of it is a sentence of STS-B's dev or test split. Negatives
that do so are left out alone. ``counts.json`` in the output says how many rows of each file stayed, and how much was
left out or cut, by reason. Only files that it names are replaced.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mistakes import read_own, told_in_one_line
from benchmarks.provenance import made_by
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.examples.labeled import read_examples
from llama2vec.data.tasks.beir import read_beir
from llama2vec.data.tasks.sts import read_sentence_pairs
from llama2vec.errors import ConfigError, OutputExistsError
from llama2vec.files import FileKind, check_inputs, check_new, disk_errors, write_json, write_output
from llama2vec.records import TrainingExample

SETS = ("cranfield", "cacm", "scifact", "msmarco-5k", "squad-dev", "xquad-en")
SHINGLE = 12
COUNTS = "counts.json"
_PAIRS = FileKind("training pairs", rb'\{"query": ')
_LEAST_WORDS, _MOST_WORDS = 3, 400
_WORD = re.compile(r"\w+")


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="+", type=Path)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--limit", type=_count, default=0, help="most rows of one file, drawn evenly; 0 = all")
    options.add_argument("--most-negatives", type=_count, default=4)
    options.add_argument("--output", type=Path, required=True)
    given = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with told_in_one_line():
        write_clean(given)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 999,999,999")
    return int(text)


def write_clean(arguments: argparse.Namespace) -> None:
    """Write what of each file may be trained on, and the counts; a mistake shows before the first file is written."""
    file = arguments.output / COUNTS
    counts = read_own(file, {"command": str, "machine": dict}, "the counts of this script") or {}
    targets = outputs(arguments.files, arguments.output, counts)
    sources = [read_examples(path) for path in arguments.files]
    tests = Tests(arguments.data)
    for target, examples in zip(targets, sources, strict=True):
        found: Counter[str] = Counter()
        rows = list(clean(examples, tests, found, arguments.most_negatives))
        if arguments.limit and len(rows) > arguments.limit:
            found["over the limit"] = len(rows) - arguments.limit
            rows = random.Random(0).sample(rows, arguments.limit)
        lines = ((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows)
        write_output(target, lines, _PAIRS, overwrite=True)
        counts[target.name] = {"rows": len(rows), "dropped": dict(+found)}
        logging.info("%s: %s", target.name, counts[target.name])
        with disk_errors(file):
            write_json(file, counts | made_by(), sweep=True)


def outputs(files: Sequence[Path], folder: Path, counts: Container[str]) -> list[Path]:
    """Return where the rows of each file go.

    Raises:
        ConfigError: Two files would be written as one, or a name is not that of a file of pairs.
        OutputExistsError: A file would be replaced that is an input, or that the counts do not name.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for path in files:
        name = path.name.removesuffix(".gz")
        if not name.endswith(".jsonl"):
            raise ConfigError(f"{path}: pairs are read from .jsonl and .jsonl.gz; rename the file")
        target = folder / name
        # Some file systems do not tell upper from lower case.
        first, _ = found.setdefault(name.casefold(), (path, target))
        if first is not path:
            raise ConfigError(f"{first} and {path} would both be written as {target}; rename one of them")
        check_inputs(target, files)
        if os.path.lexists(target) and name not in counts:
            raise OutputExistsError(f"{target} exists, and {folder / COUNTS} does not name it; choose another --output")
        check_new(target, overwrite=True, kind=_PAIRS)
    return [target for _, target in found.values()]


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
            if len(words) < SHINGLE:
                self.sentences.add(" ".join(words))
            self.shingles.update(hash(tuple(words[at : at + SHINGLE])) for at in range(len(words) - SHINGLE + 1))

    def hold(self, text: str) -> bool:
        """Return whether a text shares twelve words in a row with a passage, or is a shorter one, or one of STS-B's."""
        words = words_of(text)
        if len(words) < 40 and " ".join(words) in self.sentences:
            return True
        places = range(len(words) - SHINGLE + 1)
        return any(hash(tuple(words[at : at + SHINGLE])) in self.shingles for at in places)


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def normal(text: str) -> str:
    return " ".join(words_of(text))


def clean(
    examples: Iterable[TrainingExample], tests: Tests, dropped: Counter[str], most_negatives: int
) -> Iterator[dict[str, Any]]:
    """Return the rows that may be trained on; count by reason the others, and what is left out of these."""
    seen: set[tuple[str, str]] = set()
    for example in examples:
        query, positive = example.query.strip(), example.positives[0].strip()
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
                dropped[f"positives cut to {_MOST_WORDS} words"] += len(positive.split()) > _MOST_WORDS
                positive = " ".join(positive.split()[:_MOST_WORDS])
            other = [one.strip() for one in example.negatives if normal(one) not in ("", answer, asked)]
            first = other[:most_negatives]
            known = [one for one in first if not tests.hold(one)]
            dropped["further positives"] += len(example.positives) - 1
            dropped["ids or scores of a row"] += bool(
                example.query_id or example.positive_ids or example.negative_ids or example.positive_scores
            )
            dropped["negatives without words, or the query or its positive"] += len(example.negatives) - len(other)
            dropped["negatives beyond the most"] += len(other) - len(first)
            dropped["negatives in a test collection"] += len(first) - len(known)
            yield {"query": query, "pos": [positive], "neg": known}


if __name__ == "__main__":
    main()
