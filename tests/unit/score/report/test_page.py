import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from made_results import LOG, NEW, OLD, make_report

from llama2vec.score.report.content import Content, build_content
from llama2vec.score.report.page import render_page
from llama2vec.score.report.sources import read_sources

Writer = Callable[..., Path]
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """What a browser would see: tags, attributes, texts; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]


@pytest.fixture(scope="module")
def page(content: Content) -> str:
    return render_page(content)


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    found = Page(page)
    assert not {"iframe", "object", "embed", "img", "image", "base", "form"} & found.tags.keys()
    for name in ("src", "srcset", "action", "data", "poster", "xlink:href"):
        assert found.values(name) == []
    assert all(value.startswith("#") or value == "data:," for value in found.values("href"))
    assert "http" not in page.replace("http-equiv", "")
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    policy = next(value for value in found.values("content") if "default-src" in value)
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy


def test_texts_of_users_never_become_markup(page: str) -> None:
    found = Page(page)
    assert found.tags["script"] == 0
    assert "alert(" not in "".join(text for tag, text in found.texts if tag == "script")
    shown = [tag for tag, text in found.texts if "<script>alert" in text]
    assert {"title", "h1", "th", "td", "strong", "code", "li", "desc", "figcaption"} <= set(shown)


def test_text_of_users_runs_in_the_direction_of_its_own_script(page: str) -> None:
    found = Page(page)
    directed = {tag for tag, name, value in found.attributes if (name, value) == ("dir", "auto")}
    assert directed == {"td", "li"}
    # The words of the page itself stay as they are.
    assert {tag for tag, name, value in found.attributes if (name, value) == ("dir", "ltr")} == {"details"}
    assert re.search(r"\.query \{[^}]*text-align: start", page)
    assert re.search(r"\.query li \{[^}]*text-align: start", page)


def test_ids_are_unique_and_every_reference_has_its_target(page: str) -> None:
    found = Page(page)
    ids = Counter(found.values("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    wanted = [value.removeprefix("#") for value in found.values("href") if value.startswith("#")]
    wanted += [name for value in found.values("aria-labelledby") for name in value.split()]
    wanted += re.findall(r"url\(#([^)]*)\)", page)
    assert len(wanted) > 20
    assert set(wanted) <= ids.keys()


def test_headings_tables_and_pictures_can_be_read_out(page: str) -> None:
    found = Page(page)
    levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert found.tags["caption"] == found.tags["table"]
    assert found.tags["th"] == len([tag for tag, name, _ in found.attributes if (tag, name) == ("th", "scope")])
    pictures = page.split("<svg")[1:]
    assert len(pictures) >= 7
    for picture in pictures:
        assert picture.startswith(' class="plot" role="img"')
        assert re.search(r"<title [^>]*>[^<]+</title><desc [^>]*>[^<]+</desc>", picture)
    assert '<html lang="en">' in page


def test_pictures_take_the_colors_of_the_page(page: str) -> None:
    style, body = page.split("</style>", 1)
    assert re.findall(r"#0102[0-9a-f]{2}", body) == []
    defined = set(re.findall(r"(--plot-[a-z0-9-]+):", style))
    assert set(re.findall(r"var\((--plot-[a-z0-9-]+)\)", body)) <= defined
    for scheme in ("prefers-color-scheme: dark", "media print"):
        assert "--plot-win" in style[style.index(scheme) :]


def test_equal_content_gives_equal_bytes(content: Content, page: str) -> None:
    assert render_page(content) == page


def test_the_page_says_what_the_sources_say(page: str) -> None:
    text = " ".join(text for _, text in Page(page).texts)
    for part in ("+0.225", "5 / 2 / 1", "relevant (gain 2)", "nDCG@10, held out", "EBAE (self)", "75 s", "0.250"):
        assert part in text
    assert text.count("c0ffee") >= 2


def test_a_single_system_has_a_table_and_nothing_to_be_best_of(evaluation: Writer) -> None:
    page = render_page(build_content(read_sources([evaluation("a", make_report("old", OLD))])))
    assert "0.350" in page
    assert 'class="best"' not in page
    assert "<svg" not in page
    assert "Side by side" not in page
    assert "Differences between systems" not in page


def test_without_values_per_query_the_page_says_why_nothing_is_tested(evaluation: Writer) -> None:
    folders = [evaluation("old", make_report("old", OLD)), evaluation("new", make_report("new", NEW))]
    (folders[0] / "tiny-test.per-query.tsv").unlink()
    page = render_page(build_content(read_sources(folders)))
    assert "nothing is tested or drawn query by query" in page
    assert page.count("<svg") == 1


def test_every_figure_of_the_trainings_has_one_picture(training: Writer) -> None:
    both = [training("two"), training("three", finished=False, log=LOG[:1])]
    page = render_page(build_content(read_sources(both)))
    assert page.count("over the optimizer steps.</figcaption>") == page.count("<svg") == 6
    assert "not finished" in page


def tables(page: str) -> list[str]:
    return re.findall(r"<table.*?</table>", page, flags=re.DOTALL)


def test_the_overview_has_a_line_per_task_where_there_are_more_tasks_than_systems(evaluation: Writer) -> None:
    long = "customer_support_tickets_of_the_northern_region_2024_q3/test"
    names = ["one", "two", long]
    folders = [
        evaluation(system, *(make_report(system, values, task=task) for task in names))
        for system, values in (("old", OLD), ("new", NEW))
    ]
    page = render_page(build_content(read_sources(folders)))
    overview = tables(page)[0]
    heads = [re.sub("<.*?>", " ", head).split() for head in re.findall(r"<th .*?</th>", overview)]
    lines = [[task, "nDCG@10"] for task in sorted(names)]
    assert heads == [["Task"], ["old"], ["new"], *lines, ["average"]]
    assert "the best of each line is bold" in overview
    assert overview.count('class="best"') == 4

    folders += [evaluation(name, make_report(name, OLD, "one")) for name in ("third", "fourth")]
    page = render_page(build_content(read_sources(folders)))
    assert '<th scope="col">System</th>' in tables(page)[0]
    assert "the best of each column is bold" in tables(page)[0]


def test_names_too_long_for_a_column_break(page: str) -> None:
    style = page.split("</style>")[0]
    for selector in (r"\.named thead th", "tbody th", "caption", "nav li"):
        assert re.search(rf"^{selector} \{{[^}}]*overflow-wrap: anywhere", style, re.MULTILINE)


def test_systems_of_one_task_stand_under_the_system_that_they_are_tested_against(evaluation: Writer) -> None:
    seeds = [f"adapted (seed {seed})" for seed in range(3)]
    folders = [evaluation(name, make_report(name, OLD[seed:] + NEW[:seed])) for seed, name in enumerate(seeds)]
    page = render_page(build_content(read_sources(folders)))
    forest = next(svg for svg in page.split("<svg")[1:] if "Differences" in svg)
    assert f">against {seeds[0]}<" in forest
    assert all(f">{name}<" in forest for name in seeds[1:])


def test_names_of_metrics_keep_their_letters(page: str) -> None:
    assert "nDCG@10 over the optimizer steps." in page
    assert "NDCG" not in page
    assert "Gradient norm over the optimizer steps." in page
