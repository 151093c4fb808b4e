from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2vec.data.tasks.trec import read_qrels, read_run, write_run
from llama2vec.records import Run

# Any word: no ASCII white space, byte order mark or half surrogate pair; no-break spaces and line separators are fine.
WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters=" \t\n\r\f\v\ufeff"), min_size=1, max_size=8
) | st.sampled_from(["\u2028", "a\u00a0b", "\x85", "\x1c", "Q0", "query-id", "0"])
SCORES = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round-trip")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(WORDS, st.dictionaries(WORDS, SCORES, min_size=1, max_size=5), min_size=1, max_size=5), WORDS)
def test_a_run_comes_back_exactly(folder: Path, results: dict[str, dict[str, float]], tag: str) -> None:
    run = Run(results, tag)
    write_run(run, folder / "a.run", overwrite=True)
    again = read_run(folder / "a.run")
    assert again == run
    assert [again.ranking(query) for query in results] == [run.ranking(query) for query in results]
    assert [path.name for path in folder.glob("*run*")] == ["a.run"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(WORDS, st.dictionaries(WORDS, st.integers(-3, 9), min_size=1, max_size=5), min_size=1, max_size=5),
    st.sampled_from(["tsv", "qrels"]),
)
def test_judgments_come_back_exactly(folder: Path, qrels: dict[str, dict[str, int]], suffix: str) -> None:
    path = folder / f"qrels.{suffix}"
    between = ("\t", "\t") if suffix == "tsv" else (" 0 ", " ")
    rows = [f"{q}{between[0]}{p}{between[1]}{gain}\n" for q, gains in qrels.items() for p, gain in gains.items()]
    path.write_text("".join(rows), encoding="utf-8", newline="\n")
    assert read_qrels(path) == qrels
