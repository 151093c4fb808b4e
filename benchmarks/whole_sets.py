r"""Score a model on whole test sets beside BM25 and all-MiniLM-L6-v2, alone and joined, and test every difference.

    python benchmarks/whole_sets.py --data ../shared/data --model llama2vec-smollm2-135m \
        --work runs/whole --output benchmarks/results/whole-sets-ready.json

Rows: the model's vectors, BM25, MiniLM, and each of the two together with BM25 (min-max, equal weights, no tuned
weight). Intervals are 95 % bootstrap intervals over queries; ``comparisons`` are paired randomization tests over the
sets of :data:`AVERAGE` that are there, where each set counts alike. STS-B is Spearman's correlation of cosines.

Vectors stay in ``--work``, float16, in a folder named after the model's contract: ``--only-encode`` makes those of the
passages on a machine with a GPU, and this command scores them on another. Sets that the output holds are not scored
again; values per query stay beside the vectors.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import whole_sets_tables
from hybrid import difference
from provenance import made_by
from quality import minilm
from study.sets import SampledSet, dense_run, score_pairs
from whole_sets_tables import AVERAGE, JOINED, MEASURE, OURS, PEER, ROWS, SETS, STS, WORDS

from llama2vec.config import ModelSettings
from llama2vec.data.beir import BeirTask, read_beir
from llama2vec.data.corpus import read_passages
from llama2vec.files import write_json
from llama2vec.manifest import digest
from llama2vec.model.encoder import Encoder
from llama2vec.records import Passage, Report, Run
from llama2vec.retrieve.fusion import min_max_fusion
from llama2vec.retrieve.lexical import Bm25Index
from llama2vec.retrieve.retriever import FUSED_DEPTH
from llama2vec.score.comparison import Comparison, ComparisonOptions, compare_reports, pooled_comparison
from llama2vec.score.metrics import evaluate_run
from llama2vec.score.significance import bootstrap_interval

_TEXTS_AT_ONCE = 2048
_QUERIES_AT_ONCE = 500  # Runs a thousand passages deep take memory.
_OPTIONS = ComparisonOptions(all_pairs=True, changed=0, flips=10_000)

Embed = Callable[[list[str], bool], npt.NDArray[np.floating]]
Part = Literal["queries", "passages"]


def main() -> None:
    """Encode what is missing, then score."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--output", type=Path)
    options.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, metavar="SET")
    options.add_argument("--only-encode", action="store_true", help="the passages, with the model alone; score later")
    arguments = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if not arguments.only_encode and arguments.output is None:
        sys.exit("--output is missing: name the file for the scores, or give --only-encode")
    encoder = Encoder.load(arguments.model, settings=ModelSettings(dtype="auto"))
    ours = System(lambda texts, queries: _encoded(encoder, texts, queries), arguments.work / encoder.contract_hash[:16])
    peer = System(_peer(), arguments.work / PEER)
    if not arguments.only_encode:
        score(arguments, encoder.contract_hash, {OURS: ours, PEER: peer})
        return
    for name in arguments.sets:
        passages = read_passages(read_beir(arguments.data / name).corpus_source)
        ours.vectors(name, "passages", lambda passages=passages: _texts(passages))  # type: ignore[misc]


class System:
    """What turns texts into vectors, and a folder that keeps them."""

    def __init__(self, embed: Embed, folder: Path) -> None:
        self.embed, self.folder = embed, folder

    def vectors(self, name: str, part: Part, texts: Callable[[], list[str]]) -> npt.NDArray[np.float32]:
        """Return unit vectors [N, D] of a set's queries or passages, kept or made now; interrupted work is resumed."""
        file = self.folder / f"{name}-{part}.npy"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            rows = texts()
            parts = [self._part(file, rows, start, part == "queries") for start in range(0, len(rows), _TEXTS_AT_ONCE)]
            _save_vectors(file, np.concatenate([np.load(one) for one in parts]))
            for one in parts:
                one.unlink()
        return np.load(file).astype(np.float32)

    def sentences(self, texts: list[str], _: bool) -> npt.NDArray[np.float32]:
        """Return unit vectors [N, D] of sentences, which are read as queries and named after what they say."""
        return self.vectors(f"sentences-{digest(texts)[:16]}", "queries", lambda: texts)

    def _part(self, file: Path, rows: list[str], start: int, queries: bool) -> Path:
        path = file.with_name(f"{file.stem}-{start:09}.npy")
        if not path.is_file():
            begun = time.monotonic()
            some = rows[start : start + _TEXTS_AT_ONCE]
            _save_vectors(path, np.asarray(self.embed(some, queries)))
            logging.info("%s: %d of %d in %.0f s", file, start + len(some), len(rows), time.monotonic() - begun)
        return path


def _save_vectors(path: Path, vectors: npt.NDArray[np.floating]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.save(stream, vectors.astype(np.float16))
    partial.rename(path)


def _encoded(encoder: Encoder, texts: Sequence[str], queries: bool) -> npt.NDArray[np.floating]:
    return encoder.encode_queries(list(texts)) if queries else encoder.encode_passages(list(texts))


def _peer() -> Embed:
    """Return MiniLM, which is loaded by the first texts."""
    loaded: list[Any] = []

    def embed(texts: list[str], queries: bool) -> npt.NDArray[np.floating]:
        loaded[:] = loaded or [minilm(256)]
        return loaded[0](texts, queries)["minilm"]

    return embed


def _texts(passages: Iterable[Passage]) -> list[str]:
    return [passage.full_text for passage in passages]


def score(arguments: argparse.Namespace, contract: str, systems: dict[str, System]) -> None:
    """Score the sets that the output lacks, then compare over all of them."""
    output: Path = arguments.output
    results: dict[str, Any] = {"contract_hash": contract, "sets": {}, "sts": {}}
    if output.is_file():
        results = json.loads(output.read_text(encoding="utf-8"))
    if results["contract_hash"] != contract:
        sys.exit(f"{output} is of another model ({results['contract_hash'][:16]}); choose another file")
    for name in arguments.sets:
        if name not in results["sets"] or not _per_query(systems, name).is_file():
            found, per_query = score_set(name, read_beir(arguments.data / name), systems)
            write_json(_per_query(systems, name), per_query)
            results["sets"][name] = found
            _save(output, results)
            logging.info("%s: %s", name, {row: round(results["sets"][name]["rows"][row][MEASURE], 4) for row in ROWS})
    for name in STS:
        if name not in results["sts"]:
            file = arguments.data / "stsb" / f"{name}.tsv"
            results["sts"][name] = {row: score_pairs(file, system.sentences) for row, system in systems.items()}
    averaged = [name for name in AVERAGE if name in results["sets"]]
    lost = [name for name in averaged if not _per_query(systems, name).is_file()]
    if lost:
        sys.exit(
            f"the values per query of {', '.join(lost)} are not in --work; name them in --sets to score them again"
        )
    if averaged:
        comparisons = [_comparison(name, json.loads(_per_query(systems, name).read_text())) for name in averaged]
        compared = pooled_comparison(comparisons, options=_OPTIONS)
        results |= {"averaged": averaged, "average": dict(compared.systems)}
        results["comparisons"] = [
            {
                "first": pair.first, "second": pair.second, "difference": pair.difference, "interval": pair.interval,
                "p": pair.randomization_p, "wins": pair.wins, "ties": pair.ties, "losses": pair.losses,
            }
            for pair in compared.pairs
        ]  # fmt: skip
    _save(output, results)
    print(f"{whole_sets_tables.scores(results)}\n\n{whole_sets_tables.tests(results)}")


def _per_query(systems: dict[str, System], name: str) -> Path:
    return systems[OURS].folder / f"{name}-per-query.json"


def _save(output: Path, results: dict[str, Any]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, results | made_by())


def score_set(
    name: str, task: BeirTask, systems: dict[str, System]
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Return nDCG@10 of every row with its interval, the vectors' differences from others, and the values per query."""
    passages = list(read_passages(task.corpus_source))
    words = Bm25Index.build(passages)
    questions = [query.text for query in task.queries]
    asked = {row: system.vectors(name, "queries", lambda: questions) for row, system in systems.items()}
    tables = {row: system.vectors(name, "passages", lambda: _texts(passages)) for row, system in systems.items()}
    per_query: dict[str, dict[str, float]] = {row: {} for row in ROWS}
    for start in range(0, len(task.queries), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        queries = task.queries[part]
        some = BeirTask(task.name, queries, {query.id: task.qrels[query.id] for query in queries}, task.corpus_source)
        sample = SampledSet(some, passages)
        runs: dict[str, Run] = {WORDS: words.search(queries, depth=FUSED_DEPTH)}
        for row in systems:
            runs[row] = dense_run(asked[row][part], tables[row], sample, FUSED_DEPTH)
        for row, system in JOINED.items():
            runs[row] = min_max_fusion([runs[system], runs[WORDS]], lexical=[False, True])
        for row in ROWS:
            per_query[row] |= evaluate_run(runs[row], some.qrels, task=task.name).per_query[MEASURE]
    # In one order, whatever the parts, for the resampling.
    per_query = {row: dict(sorted(values.items())) for row, values in per_query.items()}
    rows = {
        row: {
            MEASURE: fmean(values.values()),
            "interval": list(bootstrap_interval(np.array(list(values.values())))),
        }
        for row, values in per_query.items()
    }
    differences = {row: difference(per_query[row], per_query[OURS]) for row in (WORDS, PEER)}
    found = {"queries": len(task.queries), "passages": len(passages), "rows": rows, f"{OURS} minus": differences}
    return found, per_query


def _comparison(name: str, per_query: dict[str, dict[str, float]]) -> Comparison:
    """Compare the rows of one set, query by query."""
    reports = [Report(name, row, {}, per_query={MEASURE: per_query[row]}) for row in ROWS]
    return compare_reports(reports, metric=MEASURE, options=_OPTIONS)


if __name__ == "__main__":
    main()
