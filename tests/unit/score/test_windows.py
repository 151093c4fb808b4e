"""How the documents of a task are cut for a model and for BM25, and which settings are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llama2vec.data.documents.windows import WindowSettings
from llama2vec.errors import ConfigError
from llama2vec.score.settings import ScoringSettings
from llama2vec.score.tasks import TASKS
from llama2vec.score.windows import check_windows_used, windows_of

LONG, SHORT = TASKS["msmarco/document/dev"], TASKS["beir/scifact"]


@pytest.mark.parametrize(
    ("given", "of_model", "of_bm25"),
    [
        ({}, ("firstp", 505, 505), None),
        ({"windows": "firstp"}, ("firstp", 505, 505), None),
        ({"windows": "firstp", "window_tokens": 100}, ("firstp", 100, 100), ("firstp", 100, 100)),
        ({"windows": "maxp", "window_tokens": 100}, ("maxp", 100, 50), ("maxp", 100, 50)),
        ({"windows": "maxp", "window_tokens": 505, "stride": 505}, ("maxp", 505, 505), ("maxp", 505, 505)),
    ],
)
def test_a_model_reads_windows_of_its_limit_and_bm25_whole_documents_unless_sizes_are_given(
    given: dict[str, Any], of_model: tuple[Any, ...], of_bm25: tuple[Any, ...] | None
) -> None:
    settings = ScoringSettings(**given)
    assert windows_of("words", LONG, settings, 505) == WindowSettings(*of_model)
    assert windows_of("bm25", LONG, settings, None) == (WindowSettings(*of_bm25) if of_bm25 else None)


def test_passages_are_cut_only_where_windows_are_asked_for() -> None:
    assert windows_of("words", SHORT, ScoringSettings(), 505) is None
    assert windows_of("words", SHORT, ScoringSettings(windows="maxp"), 505) == WindowSettings("maxp", 505, 252)


@pytest.mark.parametrize(
    ("given", "limit", "problem"),
    [
        ({"windows": "maxp"}, None, "bm25 has no limit that sizes windows; set window_tokens, counted in words"),
        ({"window_tokens": 512}, 505, "windows of 512 tokens are longer than the 505 that bm25 reads of a text"),
        ({"windows": "maxp", "stride": 512}, 505, "the stride of 512 tokens does not fit windows of 505"),
        ({"stride": 256}, 505, "stride needs several windows of a document; set windows=maxp"),
        ({"windows": "firstp", "stride": 256}, None, "stride needs several windows of a document; set windows=maxp"),
    ],
)
def test_windows_that_do_not_fit_are_refused(given: dict[str, Any], limit: int | None, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}"):
        windows_of("bm25", LONG, ScoringSettings(**given), limit)


def test_a_size_without_windows_is_refused() -> None:
    check_windows_used(ScoringSettings(stride=4), [None, {"kind": "maxp"}])
    for given in ({"stride": 4}, {"window_tokens": 4}):
        with pytest.raises(ConfigError, match=r"^window_tokens and stride need windows; set windows=maxp or"):
            check_windows_used(ScoringSettings(**given), [None])


def test_the_variants_of_the_page_on_reproducing_fit_the_model_that_it_makes() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reproducing.md").read_text(encoding="utf-8")
    limit, around = (
        re.search(rf"{before} ?(\d+)", page) for before in ("--set encoder.passage_max_tokens=", "prompt take")
    )
    assert limit
    assert around
    reads = int(limit[1]) - int(around[1])
    variants = re.findall(r"^\| (?:FirstP|MaxP)[^|]*\| ([^|]*) \|$", page, re.MULTILINE)
    found = [
        windows_of("model", LONG, ScoringSettings(**dict(re.findall(r"--set (\w+)=(\w+)", row))), reads)  # type: ignore[arg-type]
        for row in variants
    ]
    assert [(one.kind, one.tokens, one.stride) for one in found if one] == [
        ("firstp", reads, reads), ("maxp", reads, reads // 2), ("maxp", reads, reads),
    ]  # fmt: skip
    assert f"The model\nreads {reads} tokens" in page
