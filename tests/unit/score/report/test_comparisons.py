import dataclasses
import io

import numpy as np
from compared import NEW, OLD, OTHER, QRELS, compare_one, report, two_tasks
from rich.console import Console

from llama2vec.score.comparison import Comparison, ShownPassage, ShownQuery, compare_reports, pooled_comparison
from llama2vec.score.report.comparisons import markdown_comparison, terminal_comparison


def terminal(comparison: Comparison) -> str:
    stream = io.StringIO()
    Console(file=stream, width=150, highlight=False).print(terminal_comparison(comparison))
    return stream.getvalue()


def test_the_terminal_shows_tests_verdicts_and_changed_queries() -> None:
    comparison = compare_one([OLD, NEW, OTHER], QRELS, metric="MRR@10", task="tiny [x]")
    text = terminal(comparison)
    (pair, _) = comparison.pairs
    for part in (
        "tiny [x] · MRR@10 · 6 judged queries",
        "new − old",
        f"+0.050 [{pair.interval[0]:.3f}, {pair.interval[1]:.3f}]",
        f"{pair.randomization_p_corrected:.4f}",
        "3/1/2",
        "after Holm over the 2 pairs",
        "every sign pattern",
        "No difference is shown between new and old",
        "with 80 % power",
        "+0.750  q2  (0.250 → 1.000)",
        "old 1. other1 (not judged)",
        "new 1. good (gain 2)",
        "new: returned nothing",
    ):
        assert part in text, part


def test_the_verdict_names_the_better_system_whichever_comes_first() -> None:
    draw = np.random.default_rng(2)
    low, high = list(draw.random(30) / 10), list(draw.random(30) / 10 + 0.5)
    for values in ((low, high), (high, low)):
        reports = [report("t", name, numbers) for name, numbers in zip("ab", values, strict=True)]
        better = "b is better than a" if values[0] is low else "a is better than b"
        text = terminal(compare_reports(reports, metric="AP"))
        assert f"{better} by 0.5" in text
        assert "100,000 random sign patterns" in text
        assert "Holm" not in text
    same = [report("t", name, [0.1, 0.2]) for name in "ab"]
    assert "b and a score the same on every query." in terminal(compare_reports(same, metric="AP"))


def test_markdown_shows_p_values_before_the_correction_and_texts_as_they_are() -> None:
    comparison = compare_one([OLD, NEW, OTHER], QRELS, metric="MRR@10", task="a|b")
    query = ShownQuery("what *is*\nit?", {"old": (ShownPassage(1, "p_1", 1.0, None, "<b>", "1 | 2"),)})
    comparison = dataclasses.replace(comparison, shown={**comparison.shown, "q2": query})
    lines = markdown_comparison(comparison).splitlines()
    assert lines[0] == "## a\\|b · MRR@10 · 6 judged queries"
    assert "| System | MRR@10 | queries it lacks | depth |" in lines
    pair = comparison.pairs[1]
    assert f"{pair.randomization_p_corrected:.4f} ({pair.randomization_p:.4f})" in "\n".join(lines)
    assert "- **+0.750** (0.250 → 1.000) q2: what \\*is\\* it?" in lines
    assert "    - old 1. p\\_1 (not judged) \\<b\\> — 1 \\| 2" in lines


def test_the_pooled_table_has_a_column_per_task() -> None:
    pooled = pooled_comparison(two_tasks())
    lines = markdown_comparison(pooled).splitlines()
    assert "| System | AP | big | small |" in lines
    means = [pooled.systems["a"], *(task["a"] for task in pooled.settings["tasks"].values())]
    assert f"| a | {' | '.join(f'{mean:.3f}' for mean in means)} |" in lines
