r"""Score a model on whole test sets beside BM25 and all-MiniLM-L6-v2, alone and joined, and test every difference.

    python -m benchmarks.quality.whole_sets --data ../shared/data --model llama2vec-smollm2-135m \
        --work runs/whole --output benchmarks/results/whole-sets-ready.json

Rows: the model's vectors, BM25, MiniLM, and each of the two together with BM25 (min-max, equal weights, no tuned
weight). Intervals are 95 % bootstrap intervals over queries; ``comparisons`` are paired randomization tests over the
sets of :data:`AVERAGE` that are there, where each set counts alike. STS-B is Spearman's correlation of cosines.

Vectors stay in ``--work``, float16, in a folder named after the model's contract: ``--only-encode`` makes those of the
passages on a machine with a GPU, and this command scores them on another. Sets that the output holds are not scored
again; values per query stay beside the vectors. Beside each kept file lies a digest of the data that it was made from:
where these have changed, vectors are made and sets scored again. What was made before digests were kept is used if its
size fits.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.mistakes import check_format, read_own, told_in_one_line
from benchmarks.provenance import made_by
from benchmarks.quality import whole_sets_tables
from benchmarks.quality.hybrid import difference
from benchmarks.quality.systems import minilm
from benchmarks.quality.whole_sets_tables import AVERAGE, JOINED, MEASURE, OURS, PEER, ROWS, SETS, STS, WORDS
from benchmarks.study.sets import SampledSet, dense_run, score_pairs
from llama2vec.config import ModelSettings
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.tasks.beir import BeirTask, read_beir
from llama2vec.data.tasks.sts import read_sentence_pairs
from llama2vec.errors import ConfigError
from llama2vec.files import disk_errors, write_atomic, write_json
from llama2vec.manifest import digest
from llama2vec.model.encoder import Encoder
from llama2vec.records import Passage, Report, Run, SentencePair
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.fusion import FUSED_DEPTH, min_max_fusion
from llama2vec.score.comparison import Comparison, ComparisonOptions, compare_reports, pooled_comparison
from llama2vec.score.metrics import evaluate_run
from llama2vec.score.significance import bootstrap_interval

_TEXTS_AT_ONCE = 2048
_QUERIES_AT_ONCE = 500  # Runs a thousand passages deep take memory.
_OPTIONS = ComparisonOptions(all_pairs=True, changed=0, flips=10_000)

_RESULTS = {"contract_hash": str, "sets": dict, "sts": dict}

Embed = Callable[[list[str], bool], npt.NDArray[np.floating]]
Part = Literal["queries", "passages"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Encode what is missing, then score."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--output", type=Path)
    options.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, metavar="SET")
    options.add_argument("--only-encode", action="store_true", help="the passages, with the model alone; score later")
    given = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with told_in_one_line():
        _encode_and_score(given)


def _encode_and_score(arguments: argparse.Namespace) -> None:
    if not arguments.only_encode and arguments.output is None:
        raise ConfigError("--output is missing: name the file for the scores, or give --only-encode")
    # A wrong file shows before the model is loaded.
    results = None if arguments.only_encode else read_own(arguments.output, _RESULTS, "scores of this script")
    tasks = {name: read_beir(arguments.data / name) for name in arguments.sets}
    pairs = {} if arguments.only_encode else {name: read_sentence_pairs(_sts_file(arguments, name)) for name in STS}
    encoder = Encoder.load(arguments.model, settings=ModelSettings(dtype="auto"))
    kept = arguments.work / encoder.contract_hash[:16]
    check_format(kept, encoder.dtype)
    ours = System(lambda texts, queries: _encoded(encoder, texts, queries), kept)
    if arguments.only_encode:
        for name, task in tasks.items():
            ours.vectors(name, "passages", _texts(read_passages(task.corpus_source)))
        return
    results = results or {"contract_hash": encoder.contract_hash, "sets": {}, "sts": {}}
    if results["contract_hash"] != encoder.contract_hash:
        other = results["contract_hash"][:16]
        raise ConfigError(f"{arguments.output} is of another model ({other}); choose another file")
    score(arguments, results, tasks, pairs, {OURS: ours, PEER: System(_peer(), arguments.work / PEER)})


def _sts_file(arguments: argparse.Namespace, name: str) -> Path:
    return Path(arguments.data / "stsb" / f"{name}.tsv")


class System:
    """What turns texts into vectors, and a folder that keeps them."""

    def __init__(self, embed: Embed, folder: Path) -> None:
        self.embed, self.folder = embed, folder

    def vectors(self, name: str, part: Part, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return unit vectors [N, D] of a set's queries or passages, kept or made now; interrupted work is resumed."""
        file = self.folder / f"{name}-{part}.npy"
        if not _has_vectors_of(file, texts):
            starts = range(0, len(texts), _TEXTS_AT_ONCE)
            parts = [self._part(file, texts, start, part == "queries") for start in starts]
            _save_vectors(file, np.concatenate([np.load(one) for one in parts]), texts)
            for one in self.folder.glob(f"{file.stem}-{'[0-9]' * 9}.*"):
                one.unlink()
        return np.load(file).astype(np.float32)

    def sentences(self, texts: list[str], _: bool) -> npt.NDArray[np.float32]:
        """Return unit vectors [N, D] of sentences, which are read as queries and named after what they say."""
        return self.vectors(f"sentences-{digest(texts)[:16]}", "queries", texts)

    def _part(self, file: Path, texts: list[str], start: int, queries: bool) -> Path:
        path = file.with_name(f"{file.stem}-{start:09}.npy")
        some = texts[start : start + _TEXTS_AT_ONCE]
        if not _has_vectors_of(path, some):
            begun = time.monotonic()
            _save_vectors(path, np.asarray(self.embed(some, queries)), some)
            logging.info("%s: %d of %d in %.0f s", file, start + len(some), len(texts), time.monotonic() - begun)
        return path


def _has_vectors_of(path: Path, texts: list[str]) -> bool:
    try:
        fits = len(np.load(path, mmap_mode="r")) == len(texts)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, EOFError):  # What numpy raises for a file that holds anything else
        fits = False
    return _is_kept(path, digest(texts), fits=fits)


def _save_vectors(path: Path, vectors: npt.NDArray[np.floating], texts: list[str]) -> None:
    content = io.BytesIO()
    np.save(content, vectors.astype(np.float16))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.getvalue(), sweep=True)
        # Last: after a kill in between, what is there differs from an older digest and is made again.
        write_json(_digest_file(path), {"data": digest(texts)}, sweep=True)


def _is_kept(path: Path, data: str, *, fits: bool) -> bool:
    """Return whether a file was made from the data with this digest; say so where it was not.

    A file without a digest is taken for one if it ``fits``, and gets the digest.
    """
    known = _digest_of(path)
    if known == data and fits:
        return True
    if known or not fits:
        logging.info("%s does not belong to these data; it is made again", path)
        return False
    logging.info("%s was made before digests were kept; its size fits the data, so it is used", path)
    with disk_errors(path):
        write_json(_digest_file(path), {"data": data}, sweep=True)
    return True


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".digest.json")


def _digest_of(path: Path) -> str:
    """Return the digest of the data that a file was made from; "" where none was kept."""
    found = read_own(_digest_file(path), {"data": str}, "the digest of the file beside it")
    return found["data"] if found else ""


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


def score(
    arguments: argparse.Namespace, results: dict[str, Any], tasks: dict[str, BeirTask],
    pairs: dict[str, list[SentencePair]], systems: dict[str, System],
) -> None:  # fmt: skip
    """Score the sets that the results lack, then compare over all of them."""
    output: Path = arguments.output
    for name, task in tasks.items():
        sample = SampledSet(task, list(read_passages(task.corpus_source)))
        data, file = sample.facts["fingerprint"], _per_query_file(systems, name)
        values = _per_query(file)
        queries = {query.id for query in task.queries}
        fits = values is not None and all(set(values[row]) == queries for row in ROWS)
        # Both are asked, so that both get their digests.
        is_kept = file.is_file() and _is_kept(file, data, fits=fits)
        size = {"queries": len(queries), "passages": len(sample.passages)}
        if not (_is_scored(results, "sets", name, data, size) and is_kept):
            found, per_query = score_set(name, sample, systems)
            with disk_errors(file):
                write_json(file, per_query, sweep=True)
                write_json(_digest_file(file), {"data": data}, sweep=True)
            _keep(results, "sets", name, data, found)
            _save(output, results)
            logging.info("%s: %s", name, {row: round(found["rows"][row][MEASURE], 4) for row in ROWS})
    for name, rows in pairs.items():
        data = digest([[pair.first, pair.second, pair.score] for pair in rows])
        if not _is_scored(results, "sts", name, data, {row: {"pairs": len(rows)} for row in systems}):
            file = _sts_file(arguments, name)
            found = {row: score_pairs(file, system.sentences) for row, system in systems.items()}
            _keep(results, "sts", name, data, found)
    _compare(results, systems)
    _save(output, results)
    print(f"{whole_sets_tables.scores(results)}\n\n{whole_sets_tables.tests(results)}")


def _is_scored(results: dict[str, Any], part: str, name: str, data: str, size: dict[str, Any]) -> bool:
    """Return whether the results hold scores of the data with this digest.

    Scores without a digest are taken for these if they say the same ``size``, and get the digest.
    """
    if name not in results[part]:
        return False
    known = results.setdefault("data", {}).get(name)
    if known == data:
        return True
    if known or not _says(results[part][name], size):
        logging.info("%s: the scores are of other data; it is scored again", name)
        return False
    logging.info("%s: scored before digests were kept; the size of the data is the same, so the scores stay", name)
    results["data"][name] = data
    return True


def _says(found: Any, size: Any) -> bool:
    """Return whether an object holds at least these keys and values."""
    if not isinstance(size, dict):
        return bool(found == size)
    return isinstance(found, dict) and all(_says(found.get(key), value) for key, value in size.items())


def _keep(results: dict[str, Any], part: str, name: str, data: str, found: dict[str, Any]) -> None:
    results[part][name] = found
    results.setdefault("data", {})[name] = data


def _compare(results: dict[str, Any], systems: dict[str, System]) -> None:
    """Add the differences over all sets that are averaged, which the values per query give."""
    averaged = [name for name in AVERAGE if name in results["sets"]]
    values, lost = {}, []
    for name in averaged:
        file = _per_query_file(systems, name)
        found, known = _per_query(file), _digest_of(file)
        if found is None or (known and known != results.get("data", {}).get(name, known)):
            lost.append(name)
        else:
            values[name] = found
    if lost:
        raise ConfigError(
            f"the values per query of {', '.join(lost)} are not in --work, or of other data; "
            "name them in --sets to score them again"
        )
    if averaged:
        compared = pooled_comparison([_comparison(name, values[name]) for name in averaged], options=_OPTIONS)
        results |= {"averaged": averaged, "average": dict(compared.systems)}
        results["comparisons"] = [
            {
                "first": pair.first, "second": pair.second, "difference": pair.difference, "interval": pair.interval,
                "p": pair.randomization_p, "wins": pair.wins, "ties": pair.ties, "losses": pair.losses,
            }
            for pair in compared.pairs
        ]  # fmt: skip


def _per_query_file(systems: dict[str, System], name: str) -> Path:
    return systems[OURS].folder / f"{name}-per-query.json"


def _per_query(file: Path) -> dict[str, dict[str, float]] | None:
    return read_own(file, dict.fromkeys(ROWS, dict), "values per query")


def _save(output: Path, results: dict[str, Any]) -> None:
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, results | made_by(), sweep=True)


def score_set(
    name: str, whole: SampledSet, systems: dict[str, System]
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Return nDCG@10 of every row with its interval, the vectors' differences from others, and the values per query."""
    task, passages = whole.task, whole.passages
    words = Bm25Index.build(passages)
    questions, texts = [query.text for query in task.queries], _texts(passages)
    asked = {row: system.vectors(name, "queries", questions) for row, system in systems.items()}
    tables = {row: system.vectors(name, "passages", texts) for row, system in systems.items()}
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
