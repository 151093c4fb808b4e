"""Plots: bounded in size, and readable."""

from llama2vec.score.report.plots import Estimate, difference_plot, estimates_plot


def test_many_queries_make_a_picture_of_bounded_size() -> None:
    first = [number / 9973 for number in range(7000)]
    second = [(number * 7919 % 9973) / 9973 for number in range(7000)]
    names = ("a", "b")
    bars = difference_plot(first, second, key="bars", names=names, metric="AP")
    assert len(bars.svg) < 120_000
    assert "7,000 queries" in bars.svg


def test_a_groups_heading_has_the_width_of_the_picture_and_a_rows_label_that_beside_it() -> None:
    heading, label = "EBAE + EBAR, released → labels, three seeds", "EBAE + EBAR, released → labels"
    drawn = estimates_plot({heading: [Estimate(label, 0.5)]}, key="k", title="Scores", axis="nDCG@10", caption="c")
    assert f">{heading}<" in drawn.svg
    assert label not in drawn.svg.replace(heading, "")


def test_no_line_runs_through_a_heading() -> None:
    groups = {"b against a": [Estimate("one", 0.1, (-0.1, 0.2))], "": [Estimate("two", 0.1)]}
    drawn = estimates_plot(groups, key="k", title="Differences", axis="AP", caption="c", zero=True)
    # A band of the background's color lies over the zero line, behind the only heading.
    assert drawn.svg.count("fill: var(--plot-card)") == 1
    assert drawn.svg.index("fill: var(--plot-card)") > drawn.svg.index("stroke: var(--plot-muted)")
