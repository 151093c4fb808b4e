"""Write the tables of the pages below from benchmarks/results; --check fails if one is stale.

A table stands between two comments; the text around it is written by hand::

    <!-- table: study-main cpu -->
    …
    <!-- end -->

The first word names the table (``--list`` shows all), the rest the budget of the study (default: cpu), for ``hybrid``
the model, for ``authors-steps`` the stage, for ``encoding-peers`` the processor.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.paths import RESULTS
from benchmarks.quality import budget as training_budget
from benchmarks.quality import pile_tables, whole_sets_tables
from benchmarks.quality.compressed_table import table as kept_table
from benchmarks.scale import capacity
from benchmarks.speed import encoding_peers_table, hour
from benchmarks.study import tables as study_tables
from benchmarks.study.comparisons import Scores
from benchmarks.study.protocol import load_protocol
from benchmarks.study.results import read_results
from benchmarks.tables import columns, markdown, spaced, transposed
from llama2vec.errors import Llama2VecError
from llama2vec.files import write_atomic
from llama2vec.records import Report
from llama2vec.score.comparison import compare_reports, pooled_comparison
from llama2vec.score.report.text import p_value_text

PAGES = tuple(Path(__file__).with_name(name) for name in ("results.md", "lab-notes.md", "authors.md", "capacity.md"))
END = "<!-- end -->"
_BLOCK = re.compile(
    r"<!-- table: (?P<name>[^\n]*?) -->\n(?P<body>.*?)(?P<end>^<!-- end -->$|(?=^<!-- table: )|\Z)", re.S | re.M
)

_PEER = "all-MiniLM-L6-v2"
_PEERS = {"": "encoding-peers-bf16-cpu.json", "epyc": "encoding-peers-bf16-epyc-cpu.json"}
"""Processor → the file of ``benchmarks/speed/encoding_peers.py``; "" = an Intel Xeon with AMX."""
_SEARCH_NAMES = {
    "dense": "ours",
    "bm25": "BM25",
    "rrf(dense+bm25)": "ours + BM25, reciprocal ranks",
    "min-max(dense+bm25)": "ours + BM25",
    _PEER: _PEER,
    f"rrf({_PEER}+bm25)": f"{_PEER} + BM25, reciprocal ranks",
    f"min-max({_PEER}+bm25)": f"{_PEER} + BM25",
}
_TASK_NAMES = {
    "sts/en-dev": "STS-B dev",
    "sts/en-test": "STS-B test",
    "cranfield": "Cranfield",
    "squad-dev": "SQuAD-dev",
    "scifact": "SciFact",
}


class TableError(Exception):
    """A table cannot be made."""


def study_table(name: str, budget: str, results: Path) -> str:
    """Return a table of the ablation study."""
    protocol = load_protocol(budget or "cpu")
    return study_tables.TABLES[name][1](Scores(read_results(results / "study.json"), protocol))


def quality_table(budget: str, results: Path) -> str:
    """Return the scores of the adapted model on whole sets (``benchmarks/quality/systems.py``)."""
    path = results / "adapt-smollm2-cpu.json"
    file = _read(path)
    systems = {"raw-mean": "raw, mean", "raw-prompted": "raw, prompted", "adapted": "adapted"}
    systems |= {"bm25": "BM25", "minilm": "all-MiniLM-L6-v2"}
    rows = [["task", *systems.values()]]
    for task, scores in file["tasks"].items():
        first = next(iter(scores.values()))
        size = f"{first.get('pairs', first.get('queries')):,} {'pairs' if 'pairs' in first else 'queries'}"
        # BM25 does not compare sentences.
        cells = [
            "–" if system == "bm25" and first["measure"] == "spearman" else _with_interval(scores.get(system))
            for system in systems
        ]
        measure = first["measure"].replace("spearman", "Spearman")
        rows.append([f"{_TASK_NAMES.get(task, task)}, {size}, {measure}", *cells])
    return markdown(rows)


def raw_table(_: str, results: Path) -> str:
    """Return what the raw LLM reaches with each way to make a vector (``benchmarks/quality/systems.py --layers``)."""
    ways = {"raw-mean": "mean of the text", "raw-prompted": "SELF prompt", "raw-one-word": "one-word prompt"}
    files = {1: "raw-layers-1.json", 8: "raw-layers-8.json"}
    scores = {layers: _read(results / name)["tasks"] for layers, name in files.items()}
    tasks = list(scores[1])
    rows = [["vector", "layers", *(_TASK_NAMES.get(task, task) for task in tasks)]]
    for way, name in ways.items():
        for layers, found in scores.items():
            cells = [_with_interval(found.get(task, {}).get(way)) for task in tasks]
            rows.append([name, "the last" if layers == 1 else f"mean of the last {layers}", *cells])
    return markdown(rows)


def hybrid_table(model: str, results: Path) -> str:
    """Return what each search reaches with one model (``benchmarks/quality/hybrid.py``), then tests of its average.

    A line stands for a set, and a column for a search; those of the peer model follow ours where the file has them
    (``--peer``).
    """
    path = results / f"hybrid-smollm2-{model}-cpu.json"
    try:
        file: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read ({error}); restore it") from None
    tasks, averaged = file["tasks"], file["settings"]["sets"]["average"]
    values = {
        system: {name: task["rows"][system]["per_query"] for name, task in tasks.items()}
        for system in next(iter(tasks.values()))["rows"]
        if system in _SEARCH_NAMES
    }
    names = {"bm25": "BM25", _PEER: "MiniLM", f"min-max({_PEER}+bm25)": "MiniLM + BM25"}
    references = {system: name for system, name in names.items() if system in values}
    scores = [["set", *tasks, "**average**"]]
    tests = [["average of", *(f"vs {name}" for name in references.values())]]
    for system, found in values.items():
        means = {name: fmean(per_query.values()) for name, per_query in found.items()}
        average = f"**{fmean(means[name] for name in averaged):.3f}**"
        scores.append([_SEARCH_NAMES[system], *(f"{mean:.3f}" for mean in means.values()), average])
        before = [*references][: [*references].index(system)] if system in references else [*references]
        cells = [_difference(values[one], found, averaged) if one in before else "–" for one in references]
        if before:
            tests.append([_SEARCH_NAMES[system], *cells])
    over = f"The average and its tests go over {', '.join(averaged)}, each set alike."
    method = f"{over} p: paired randomization test, two-sided, uncorrected."
    return f"{markdown(transposed(scores))}\n\n{markdown(tests)}\n\n{method}"


def whole_sets_table(_: str, results: Path) -> str:
    """Return the ready model on whole test sets, beside BM25 and MiniLM (``benchmarks/quality/whole_sets.py``)."""
    return whole_sets_tables.scores(_read(results / "whole-sets-ready.json"))


def whole_sets_tests_table(_: str, results: Path) -> str:
    """Return how its averages differ from theirs (``benchmarks/quality/whole_sets.py``)."""
    return whole_sets_tables.tests(_read(results / "whole-sets-ready.json"))


def pile_table(_: str, results: Path) -> str:
    """Return how many questions about a pile of files each search answers (``benchmarks/quality/pile.py``)."""
    return pile_tables.table(_read(results / "pile.json"))


def distillation_table(_: str, results: Path) -> str:
    """Return what the ready model's lower layers score and a teacher adds (``benchmarks/quality/distillation.py``)."""
    return _compared_rows(_read(results / "distillation.json")["rows"], "model", "labels")


def finetuning_variants_table(series: str, results: Path) -> str:
    """Return what single changes of a fine-tuning are worth (``benchmarks/quality/finetuning_variants.py``)."""
    file = f"finetuning-variants-{series}.json" if series else "finetuning-variants.json"
    return _compared_rows(_read(results / file)["variants"], "variant", "base")


def _compared_rows(rows: Mapping[str, Any], noun: str, reference: str) -> str:
    """Return rows with their average and its difference to one of them, then their scores on each set."""
    sets = {task: task.partition("/")[0] for task, one in rows[reference]["scores"].items() if "nDCG@10" in one}
    lines = [[noun, "average", f"vs {reference}", "STS-B dev", *sets.values()]]
    per_query = {
        name: {
            task: {str(place): value for place, value in enumerate(found["scores"][task]["values"])} for task in sets
        }
        for name, found in rows.items()
    }
    for name, found in rows.items():
        spearman = next(one["spearman"] for one in found["scores"].values() if "spearman" in one)
        scores = [f"{found['scores'][task]['nDCG@10']:.3f}" for task in sets]
        test = "–" if name == reference else _difference(per_query[reference], per_query[name], list(sets))
        lines.append([name, f"**{found['average']:.3f}**", test, f"{spearman:.3f}", *scores])
    return "\n\n".join(markdown(columns(lines, places)) for places in (range(1, 4), range(4, len(lines[0]))))


def warm_start_table(model: str, results: Path) -> str:
    """Return what training on a bare corpus adds to a model (``benchmarks/quality/warm_start.py``)."""
    cells = _read(results / f"warm-start-{model}.json")["cells"]
    arms = list(dict.fromkeys(arm for found in cells.values() for arm in found if arm != "BM25"))
    rows = [["set: vectors, with BM25", *cells]]
    for arm in arms:
        both = ([found[arm][search]["nDCG@10"] for search in ("vectors", "with BM25")] if arm in found else None
                for found in cells.values())  # fmt: skip
        rows.append([arm, *(f"{one[0]:.3f}, {one[1]:.3f}" if one else study_tables.MISSING for one in both)])
    rows.append(["BM25 alone", *(f"{found['BM25']['nDCG@10']:.3f}" for found in cells.values())])
    return markdown(transposed(rows))


def _difference(
    reference: Mapping[str, Mapping[str, float]], found: Mapping[str, Mapping[str, float]], sets: Sequence[str]
) -> str:
    sides = {"reference": reference, "found": found}
    each = [
        compare_reports([Report(name, side, {}, per_query={"nDCG@10": values[name]}) for side, values in sides.items()])
        for name in sets
    ]
    test = pooled_comparison(each).pairs[0]
    low, high = test.interval
    p_value = p_value_text(test.randomization_p)
    sign = "" if p_value.startswith("<") else "= "
    return f"{test.difference:+.3f} [{low:+.3f}, {high:+.3f}]<br>p {sign}{p_value}".replace("p <", "p < ")


def _with_interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return study_tables.MISSING
    return spaced(f"{found['score']:.3f}", f"[{found['interval'][0]:.3f}, {found['interval'][1]:.3f}]")


_AUTHORS = {"authors.json": "one of its kind", "authors-llama-2-tokenizer.json": "LLaMA-2's"}
"""Files of ``benchmarks/fidelity/authors.py`` → their tokenizer."""


def _authors(path: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["comparisons"]
    except (OSError, ValueError, KeyError) as error:
        raise TableError(f"{path.name} cannot be read ({error}); run python -m benchmarks.fidelity.authors") from None
    return found


def authors_steps_table(stage: str, results: Path) -> str:
    """Return the losses of the authors' code and of ours, step by step."""
    found = [one for one in _authors(results / "authors.json") if one["training"].startswith(stage)]
    names = [one["training"].partition(", ")[2] or f"rate {one['learning_rate']:g}" for one in found]
    lines = ["| step | " + " | ".join(f"{name}: theirs | ours" for name in names) + " |"]
    lines.append("|---|" + "---|---|" * len(found))
    columns = [one["losses"][side] for one in found for side in ("theirs", "ours")]
    for step, losses in enumerate(zip_longest(*columns), start=1):
        lines.append(f"| {step} | " + " | ".join("" if loss is None else f"{loss:.6f}" for loss in losses) + " |")
    return "\n".join(lines)


def authors_table(_: str, results: Path) -> str:
    """Return the largest differences between the authors' training and ours."""
    lines = [
        "| training | learning rate | tokenizer | rows with the same tokens | loss | gradient norm | weight | change |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, tokenizer in _AUTHORS.items():
        for one in _authors(results / name):
            tokens = f"{one['rows_with_the_same_tokens']} of {one['rows']}"
            kinds = ("loss_difference", "norm_difference", "weight_difference", "weight_change")
            numbers = " | ".join(f"{one[f'largest_{kind}']:.1e}" for kind in kinds)
            lines.append(f"| {one['training']} | {one['learning_rate']:g} | {tokenizer} | {tokens} | {numbers} |")
    return "\n".join(lines)


def scale_table(_: str, results: Path) -> str:
    """Return time and memory of building and opening every index, then of searching it (``benchmarks/scale``)."""
    rows = [["passages", "index", "build, s", "build, MiB", "open, s", "first query, s", "a query, ms (95 %)",
             "100 queries, s", "search, MiB", "recall@10"]]  # fmt: skip
    for name, one in _read(results / "scale.json")["sizes"].items():
        count, _, width = name.partition("x")
        for kind, stages in one["indexes"].items():
            build, found, cells = stages.get("build", {}), stages.get("search", {}), ["–"] * 8
            if "seconds" in build and "seconds" in found:
                cells = [
                    f"{build['processor']:,.3g}", f"{build['mib']:,.0f}", _seconds(found['open']['processor']),
                    _seconds(found['first']['processor']), f"{found['p50_ms']:,.0f} ({found['p95_ms']:,.0f})",
                    _seconds(found['processor']), f"{found['mib']:,.0f}", f"{found['recall']:.3f}",
                ]  # fmt: skip
            elif why := build.get("stopped") or build.get("refused"):
                cells[0] = "recall not reached" if "refused" in build else why.partition(",")[0]
            rows.append([f"{int(count):,} x {width}", kind, *cells])
    return "\n\n".join(markdown(columns(rows, places, labels=2)) for places in (range(2, 6), range(6, 10)))


def _seconds(value: float) -> str:
    """Return seconds of a processor, which counts them in steps of a few milliseconds, with two digits."""
    return "< 0.01" if value < 0.01 else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def updates_table(_: str, results: Path) -> str:
    """Return time and memory of writing a store and of an update of 1 % (``benchmarks/scale/indexes.py``)."""
    rows = [["passages", "disk, MiB", "write, s", "write, MiB", "update, s", "update, MiB"]]
    for name, one in _read(results / "scale.json")["sizes"].items():
        count, _, width = name.partition("x")
        if "seconds" in one.get("store", {}):
            update = one.get("update", {})
            last = [_seconds(update["processor"]), f"{update['mib']:,.0f}"] if "seconds" in update else ["–", "–"]
            written = [_seconds(one["store"]["processor"]), f"{one['store']['mib']:,.0f}"]
            rows.append([f"{int(count):,} x {width}", f"{one['store']['disk_mib']:,.0f}", *written, *last])
    return markdown(rows)


def streaming_table(_: str, results: Path) -> str:
    """Return memory and processor time of training data by their rows (``benchmarks/scale/streaming.py``)."""
    rows = [["stage", "rows", "streaming, MiB", "in memory, MiB", "streaming, s", "in memory, s", "on the disk, MiB"]]
    found = {(one["stage"], one["rows"], one["way"]): one for one in _read(results / "streaming.json")["results"]}
    for stage, count in sorted({key[:2] for key in found}):
        streamed, held = found.get((stage, count, "streaming")), found.get((stage, count, "memory"))
        ways = [one or {} for one in (streamed, held)]
        cells = [f"{one[key]:,.0f}" if key in one else "–" for key in ("mib", "processor") for one in ways]
        rows.append([stage, f"{count:,}", *cells, f"{streamed['disk_mib']:,.0f}" if streamed else "–"])
    return markdown(rows)


def compressed_table(_: str, results: Path) -> str:
    """Return what vectors of fewer bytes keep of nDCG@10 on every set (``benchmarks/quality/compressed.py``)."""
    return kept_table(_read(results / "compressed.json")["sets"])


def peers_table(processor: str, results: Path) -> str:
    """Return speed, vectors and latency of every program on one model (``benchmarks/speed/encoding_peers.py``)."""
    return encoding_peers_table.table(_read(results / _PEERS[processor]))


def peers_bars_table(processor: str, results: Path) -> str:
    """Return how far ours is ahead of the best of them, and its share of the processor's peak."""
    return encoding_peers_table.bars(_read(results / _PEERS[processor]))


def budget_table(_: str, results: Path) -> str:
    """Return what minutes of training buy (``benchmarks/quality/budget.py``)."""
    return training_budget.table(results)


def hour_table(_: str, results: Path) -> str:
    """Return the stages from 20,000 files to hybrid search (``benchmarks/speed/hour.py``)."""
    return hour.table(_read(results / "hour.json"))


def capacity_table(_: str, results: Path) -> str:
    """Return what 8.8 million and a billion passages take (``benchmarks/scale/capacity.py``)."""
    one, ten = (capacity.Inputs.measured(results, parts=parts) for parts in (None, 10))
    return capacity.table([(8_800_000, 4096, one), (10**9, 4096, one), (10**9, 4096, ten)])


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read ({error}); restore it") from None
    return found


TABLES: dict[str, Callable[[str, Path], str]] = {
    **{
        f"study-{name}": lambda budget, results, name=name: study_table(name, budget, results)
        for name in study_tables.TABLES
    },
    "adapted-quality": quality_table,
    "raw": raw_table,
    "hybrid": hybrid_table,
    "whole-sets": whole_sets_table,
    "whole-sets-tests": whole_sets_tests_table,
    "pile": pile_table,
    "warm-start": warm_start_table,
    "distillation": distillation_table,
    "finetuning-variants": finetuning_variants_table,
    "authors": authors_table,
    "authors-steps": authors_steps_table,
    "scale": scale_table,
    "scale-updates": updates_table,
    "streaming": streaming_table,
    "compressed": compressed_table,
    "encoding-peers": peers_table,
    "encoding-peers-bars": peers_bars_table,
    "hour": hour_table,
    "budget": budget_table,
    "capacity": capacity_table,
}


def render(page: str, results: Path = RESULTS) -> str:
    """Return the page with every marked table rebuilt.

    Raises:
        TableError: A table that does not exist, has no end, or rests on a file that cannot be read.
        Llama2VecError: A results file that cannot be read.
    """

    def made(block: re.Match[str]) -> str:
        name, _, budget = block["name"].partition(" ")
        if name not in TABLES:
            near = difflib.get_close_matches(name, TABLES, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(TABLES)}"
            raise TableError(f"no table '{name}'; {hint}")
        if not block["end"]:
            raise TableError(f"the table '{block['name']}' has no {END}")
        return f"<!-- table: {block['name']} -->\n{TABLES[name](budget, results)}\n{END}"

    return _BLOCK.sub(made, page)


def main() -> None:
    """Write the pages, or check them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="write nothing; fail where a table is out of date")
    options.add_argument("--list", action="store_true", help="print the names of the tables")
    options.add_argument("--page", type=Path, action="append", help="default: all pages with tables")
    options.add_argument("--results", type=Path, default=RESULTS)
    arguments = options.parse_args()
    if arguments.list:
        print("\n".join(TABLES))
        return
    for path in arguments.page or PAGES:
        update(path, arguments.results, check=arguments.check)


def update(path: Path, results: Path, *, check: bool) -> None:
    """Rebuild one page, or exit if a table of it is out of date."""
    page = path.read_text(encoding="utf-8")
    try:
        new = render(page, results)
    except (TableError, Llama2VecError) as error:
        sys.exit(f"{path.name}: {error}")
    if not check:
        write_atomic(path, new.encode())
    elif new != page:
        stale = [
            block["name"]
            for block, made in zip(_BLOCK.finditer(page), _BLOCK.finditer(new), strict=True)
            if block[0] != made[0]
        ]
        sys.exit(f"{path.name} is out of date ({', '.join(stale)}): run `make docs`")


if __name__ == "__main__":
    main()
