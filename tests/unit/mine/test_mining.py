"""Hard negatives: what is found, what is removed, and what the report says of it."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llama2vec.cli import main
from llama2vec.data.examples import read_examples, write_examples
from llama2vec.errors import ConfigError, DataError, EmptyCorpusError, Llama2VecError, OutputExistsError, StoreError
from llama2vec.mine.candidates import Bm25Searcher, DenseSearcher, passages_of_examples
from llama2vec.mine.mining import MiningInputs, MiningResult, mine, mine_to_file, report_path
from llama2vec.mine.settings import MineSettings
from llama2vec.records import Passage, Query, TrainingExample
from llama2vec.retrieve.index import ExactIndex
from llama2vec.retrieve.store import VectorStore
from llama2vec.retrieve.store_writer import write_store

TOPICS = ("llama", "camel", "sheep", "goat", "horse", "mule")
FILLERS = [
    *("river", "stone", "bridge", "castle", "winter", "market", "harbour", "engine", "letter", "garden", "forest"),
    *("silver", "copper", "orchard", "temple", "village", "mountain", "lantern", "captain", "merchant", "painter"),
]
OPEN = MineSettings(max_share_of_positive=0, near_duplicate=0, negatives=3, choose="top", last_rank=50)
"""No filter but the known positives, so that a test can switch on its own."""


class TopicEncoder:
    """One dimension per topic word and one for the rest."""

    dimension = len(TOPICS) + 1

    def __init__(self, contract_hash: str = "c0ffee") -> None:
        self.contract_hash = contract_hash
        self.passages_encoded = 0

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        words = [text.lower().split() for text in texts]
        counts = np.array([[row.count(topic) for topic in TOPICS] + [0.5] for row in words], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        self.passages_encoded += len(passages)
        return self._vectors([passage.full_text for passage in passages])

    def encode_queries(self, queries: Sequence[Query], /) -> npt.NDArray[np.float32]:
        return self._vectors([query.text for query in queries])


def made_up_text(draw: random.Random, topic: str, times: int) -> str:
    words = [draw.choice(FILLERS) for _ in range(30)] + [topic] * times
    draw.shuffle(words)
    return " ".join(words)


@pytest.fixture(scope="module")
def corpus() -> list[Passage]:
    """For each topic twelve passages of 30 and more words, ``llama-0`` … ``mule-11``; the later, the more of it."""
    draw = random.Random(0)
    return [
        Passage(f"{topic}-{number}", made_up_text(draw, topic, 1 + number)) for topic in TOPICS for number in range(12)
    ]


@pytest.fixture(scope="module")
def examples(corpus: list[Passage]) -> list[TrainingExample]:
    """One query per topic; the seventh passage is the positive."""
    return [
        TrainingExample(f"about the {topic}", (corpus[12 * place + 6].text,), query_id=f"q{place}",
                        positive_ids=(f"{topic}-6",))
        for place, topic in enumerate(TOPICS)
    ]  # fmt: skip


def with_bm25(examples: Sequence[TrainingExample], corpus: Sequence[Passage], **changes: Any) -> MiningResult:
    return mine(examples, corpus, [Bm25Searcher(corpus)], OPEN.model_copy(update=changes))


def write_jsonl(path: Path, passages: Sequence[Passage]) -> Path:
    rows = [{"_id": passage.id, "title": passage.title, "text": passage.text} for passage in passages]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., VectorStore]:
    def make(corpus: Sequence[Passage], name: str = "vectors") -> VectorStore:
        return write_store(lambda: corpus, TopicEncoder(), tmp_path / name, source={}, shard_size=20)

    return make


# ------------------------------------------------------------------------------------------- false negatives


def test_planted_duplicates_and_paraphrases_of_positives_are_removed_and_counted(
    examples: list[TrainingExample], corpus: list[Passage]
) -> None:
    positives = [example.positives[0] for example in examples]
    copies = [Passage(f"copy-{n}", f"  {text.upper()}\n") for n, text in enumerate(positives)]
    titled = [Passage(f"titled-{n}", text, "A title") for n, text in enumerate(positives[:4])]
    edited = [
        Passage(f"edited-{n}", " ".join(["Lately", *text.split()[:-3], "and more"])) for n, text in enumerate(positives)
    ]
    planted = [*corpus, *copies, *titled, *edited]
    result = with_bm25(examples, planted, near_duplicate=0.5, negatives=20)
    report = result.report
    assert report.removed("known_positive") == 6
    assert report.removed_passages("identical_to_positive") == {passage.id for passage in (*copies, *titled)}
    assert report.removed("identical_to_positive") == 10
    assert report.removed_passages("near_duplicate_of_positive") == {passage.id for passage in edited}
    chosen = {passage_id for example in result.examples for passage_id in example.negative_ids}
    assert not {passage_id for passage_id in chosen if passage_id.startswith(("copy", "titled", "edited"))}
    facts = report.to_dict()["removed"]["near_duplicate_of_positive"]
    assert (facts["candidates"], facts["queries"], facts["passages"]) == (6, 6, 6)
    assert facts["examples"][0]["query"] == "about the llama"
    assert facts["examples"][0]["passage_id"] == "edited-0"
    assert facts["examples"][0]["positive"].startswith(positives[0][:100])
    assert len(facts["examples"]) == 5
    assert "removed        10  identical_to_positive" in report.summary()
    # Without the filter the paraphrases come through: it is the filter that finds them.
    assert with_bm25(examples, planted, negatives=20).report.removed("near_duplicate_of_positive") == 0


def test_positives_of_another_row_with_the_same_query_are_known(corpus: list[Passage]) -> None:
    rows = [
        TrainingExample("about the LLAMA", (corpus[3].text,)),
        TrainingExample("about  the llama", (corpus[4].text,), query_id="q"),
        TrainingExample("llama, otherwise", (corpus[5].text,), query_id="q"),
    ]
    result = with_bm25(rows, corpus, negatives=12)
    negatives = [set(example.negative_ids) for example in result.examples]
    assert [f"llama-{n}" in negatives[0] for n in (3, 4, 5)] == [False, False, True]
    assert [f"llama-{n}" in negatives[1] for n in (3, 4, 5)] == [False, False, False]
    assert [f"llama-{n}" in negatives[2] for n in (3, 4, 5)] == [True, False, False]


def test_a_positive_counts_by_its_id_even_where_the_corpus_words_it_otherwise(corpus: list[Passage]) -> None:
    row = TrainingExample("about the llama", ("a shortened text",), positive_ids=("llama-6",))
    copy = Passage("copy", corpus[6].text)
    result = with_bm25([row], [*corpus, copy], negatives=12)
    assert not {"llama-6", "copy"} & set(result.examples[0].negative_ids)
    assert (result.report.removed("known_positive"), result.report.removed("identical_to_positive")) == (1, 1)


def test_the_query_empty_texts_and_repeated_negatives_are_removed(corpus: list[Passage]) -> None:
    odd = [Passage("q", "About the  llama"), Passage("e", " "), Passage("again", corpus[11].text.title())]
    row = TrainingExample("about the llama", (corpus[6].text,), query_id="q")
    everything = [*corpus[:12], *odd]
    searcher = _ListSearcher(list(range(len(everything))))
    report = mine([row], everything, [searcher], OPEN.model_copy(update={"negatives": 20})).report
    assert {reason: report.removed(reason) for reason in ("query_itself", "empty", "duplicate_negative")} == {
        "query_itself": 1,
        "empty": 1,
        "duplicate_negative": 1,
    }
    assert report.removed_passages("duplicate_negative") == {"again"}


class _ListSearcher:
    """Always finds the same rows; row r scores 1 - r / 100, and so do the targets."""

    name = "list"

    def __init__(self, rows: list[int], passages: int = 0) -> None:
        self._rows, self._passages = rows, passages or len(rows)

    def __len__(self) -> int:
        return self._passages

    def search(self, queries: Sequence[Query], targets: Sequence[Sequence[int | str]], depth: int) -> Any:
        from llama2vec.mine.candidates import Found

        def score(rows: Sequence[Any]) -> list[float]:
            return [1 - row / 100 if isinstance(row, int) else 0.0 for row in rows]

        rows = self._rows[:depth]
        for wanted in targets:
            yield Found(np.array(rows), np.array(score(rows), dtype=np.float32), score(wanted), score)


# ------------------------------------------------------------------------------------------- scores and ranks


def plain(count: int) -> list[Passage]:
    return [Passage(f"p{row:02d}", f"text number {row}") for row in range(count)]


def chosen_rows(example: TrainingExample) -> list[int]:
    return [int(passage_id[1:]) for passage_id in example.negative_ids]


@pytest.mark.parametrize(
    ("changes", "best"),
    [
        ({"max_share_of_positive": 0.95}, 24),  # 0.8 · 0.95 = 0.76
        ({"margin": 0.1}, 30),  # 0.8 - 0.1 = 0.7
        ({"max_share_of_positive": 0.95, "margin": 0.1}, 30),
        ({"max_share_of_positive": 1.0}, 21),
        ({}, 0),
    ],
)
def test_candidates_close_to_the_positive_or_above_it_are_dropped(changes: dict[str, float], best: int) -> None:
    row = TrainingExample("q", ("text number 20",))  # scores 0.8
    settings = OPEN.model_copy(update={"negatives": 100, "last_rank": 100, **changes})
    result = mine([row], plain(60), [_ListSearcher(list(range(60)))], settings)
    assert chosen_rows(result.examples[0]) == [number for number in range(best, 60) if number != 20]
    assert result.report.removed("too_close_to_positive") == (best - 1 if best > 20 else 0)


def test_the_least_scored_of_several_positives_is_the_bound() -> None:
    row = TrainingExample("q", ("text number 5", "text number 40"))
    settings = OPEN.model_copy(update={"max_share_of_positive": 1.0})
    result = mine([row], plain(60), [_ListSearcher(list(range(60)))], settings)
    assert chosen_rows(result.examples[0]) == [41, 42, 43]


def test_a_positive_that_bm25_knows_nothing_of_sets_no_bound(corpus: list[Passage]) -> None:
    rows = [TrainingExample("about the llama", ("nothing in common",)), TrainingExample("sheep", (corpus[24].text,))]
    report = with_bm25(rows, corpus, max_share_of_positive=0.95).report
    assert (report.unbounded, report.unknown_positives) == (1, 1)
    assert report.to_dict()["short"]["by_negatives"] == {"0": 1}  # sheep-0 is the worst of its topic


def test_a_positive_outside_the_retrieved_list_or_the_corpus_is_scored_all_the_same(
    corpus: list[Passage], make_store: Callable[..., VectorStore]
) -> None:
    encoder = TopicEncoder()
    searcher = DenseSearcher(ExactIndex(make_store(corpus)), encoder)
    unknown = "goat goat goat sheep"
    found = next(iter(searcher.search([Query("q", "about the llama")], [(6, unknown, 11)], 3)))
    assert found.rows.tolist() == [0, 1, 2]
    query, *others = encoder._vectors(["about the llama", corpus[6].text, unknown, corpus[11].text])
    assert found.target_scores == pytest.approx([float(vector @ query) for vector in others], abs=1e-6)
    texts = {"a llama": corpus[11].text, "the llama": corpus[0].text, "one llama": unknown}
    rows = [TrainingExample(query, (text,)) for query, text in texts.items()]
    settings = OPEN.model_copy(update={"last_rank": 3, "max_share_of_positive": 0.999})
    mined = mine(rows, corpus, [searcher], settings)
    # The first and the last positive score lower than all of the three best, the second higher than the other two.
    assert [len(example.negatives) for example in mined.examples] == [0, 2, 0]
    assert (mined.report.unknown_positives, mined.report.unbounded) == (1, 0)


def test_bm25_scores_a_text_outside_the_corpus_as_it_would_inside(corpus: list[Passage]) -> None:
    searcher = Bm25Searcher(corpus)
    query = [Query("q", "about the llama and the river, the river")]
    asked = [7, corpus[7].text, 30, corpus[30].text]
    scores = next(iter(searcher.search(query, [asked], 5))).target_scores
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    assert scores[2] == pytest.approx(scores[3], rel=1e-5)
    assert scores[0] > scores[2] > 0


def test_the_window_counts_ranks_as_searched() -> None:
    row = TrainingExample("q", ("text number 0",))
    settings = OPEN.model_copy(update={"first_rank": 10, "last_rank": 14, "negatives": 9})
    result = mine([row], plain(60), [_ListSearcher(list(range(60)))], settings)
    assert chosen_rows(result.examples[0]) == [9, 10, 11, 12, 13]
    assert result.report.candidates == 5
    assert result.report.to_dict()["ranks"]["list"] == {
        "lowest": 10, "median": 12, "highest": 14, "spans": {"2-10": 1, "11-20": 4},
    }  # fmt: skip


def test_two_searchers_give_the_union_of_their_windows_less_what_one_ranks_above_it() -> None:
    judge, other = _ListSearcher([0, 1, 2, 3, 4], 60), _ListSearcher([4, 50, 51, 3, 52], 60)
    other.name = "other"
    row = TrainingExample("q", ("text number 59",))
    settings = OPEN.model_copy(update={"first_rank": 2, "last_rank": 5, "negatives": 20, "write_scores": True})
    result = mine([row], plain(60), [judge, other], settings)
    assert chosen_rows(result.examples[0]) == [1, 50, 2, 51, 3, 52]
    assert result.report.removed_passages("above_window") == {"p04"}
    assert result.report.to_dict()["found_by"] == {"list": 2, "other": 3, "list and other": 1}
    # What only the other found is scored by the judge as well.
    assert result.examples[0].negative_scores == pytest.approx((0.99, 0.5, 0.98, 0.49, 0.97, 0.48))
    assert result.examples[0].positive_scores == pytest.approx((0.41,))


# ------------------------------------------------------------------------------------------------- the draw


def test_the_draw_depends_on_seed_and_query_and_on_no_order(
    examples: list[TrainingExample], corpus: list[Passage]
) -> None:
    sampled = {"choose": "sample", "negatives": 3}

    def drawn(rows: Sequence[TrainingExample], passages: Sequence[Passage], **changes: Any) -> dict[str, set[str]]:
        result = with_bm25(rows, passages, **sampled, **changes)
        return {example.query_id: set(example.negative_ids) for example in result.examples}

    first = drawn(examples, corpus)
    assert drawn(examples[::-1], corpus[::-1]) == first
    assert drawn(examples[2:4], corpus) == {query_id: first[query_id] for query_id in ("q2", "q3")}
    assert drawn(examples, corpus, seed=1) != first
    assert len({frozenset(name.split("-")[1] for name in names) for names in first.values()}) > 1


def test_the_draw_is_even_over_the_window() -> None:
    rows = [TrainingExample(f"query {number}", ("text number 20",)) for number in range(400)]
    settings = OPEN.model_copy(update={"choose": "sample", "negatives": 4, "last_rank": 21})
    mined = mine(rows, plain(30), [_ListSearcher(list(range(30)))], settings).examples
    counts = Counter(row for example in mined for row in chosen_rows(example))
    assert sorted(counts) == list(range(20))
    # 80 expected each, standard deviation 8.
    assert min(counts.values()) > 50
    assert max(counts.values()) < 115
    assert all(chosen_rows(example) == sorted(chosen_rows(example)) for example in mined)


# --------------------------------------------------------------------------------- existing negatives, scores


def test_existing_negatives_are_replaced_or_kept_and_filled_up(corpus: list[Passage]) -> None:
    row = TrainingExample(
        "about the llama", (corpus[6].text,),
        negatives=("my own negative", corpus[6].text.upper(), "MY own negative", corpus[11].text),
        positive_scores=(1.0,), negative_scores=(0.1, 0.2, 0.3, 0.4),
    )  # fmt: skip
    replaced = with_bm25([row], corpus)
    assert "my own negative" not in replaced.examples[0].negatives
    assert len(replaced.examples[0].negatives) == 3
    assert (replaced.report.replaced, replaced.report.scores_dropped) == (4, 1)
    assert (replaced.examples[0].positive_scores, replaced.examples[0].negative_scores) == ((), ())
    kept = with_bm25([row], corpus, keep_existing=True, write_scores=True)
    negatives = kept.examples[0].negatives
    assert negatives[:2] == ("my own negative", corpus[11].text)
    assert len(set(negatives)) == 3
    assert (kept.report.kept, kept.report.mined) == (2, 1)
    assert (kept.report.removed("known_positive"), kept.report.removed("identical_to_positive")) == (1, 1)
    assert kept.report.removed("duplicate_negative") >= 1
    assert kept.examples[0].negative_ids == ()  # one of them has no id
    assert len(kept.examples[0].negative_scores) == 3
    assert kept.examples[0].negative_scores[0] == 0
    assert with_bm25([row], corpus, keep_existing=True, negatives=1).examples[0].negatives == negatives[:2]


def test_written_scores_are_the_judges_and_fit_the_texts(
    examples: list[TrainingExample], corpus: list[Passage], make_store: Callable[..., VectorStore]
) -> None:
    encoder = TopicEncoder()
    searchers = [DenseSearcher(ExactIndex(make_store(corpus)), encoder), Bm25Searcher(corpus)]
    settings = OPEN.model_copy(update={"write_scores": True, "max_share_of_positive": 0.95})
    for example in mine(examples, corpus, searchers, settings).examples:
        query, *others = encoder._vectors([example.query, *example.positives, *example.negatives])
        expected = [float(vector @ query) for vector in others]
        assert example.positive_scores == pytest.approx(expected[:1], abs=1e-6)
        assert example.negative_scores == pytest.approx(expected[1:], abs=1e-6)
        assert max(example.negative_scores) <= 0.95 * min(example.positive_scores)


# ----------------------------------------------------------------------------------------- corpus of examples


def test_without_a_corpus_the_distinct_passages_of_the_examples_are_one() -> None:
    rows = [
        TrainingExample("a", ("one", "two"), ("three",), positive_ids=("1", "2"), negative_ids=("3",)),
        TrainingExample("b", ("Three ", "one"), ("four",), positive_ids=("3", "1")),
        TrainingExample("c", ("four",), ("FOUR", "five")),
    ]
    passages = passages_of_examples(rows)
    assert [passage.text for passage in passages] == ["one", "two", "three", "four", "five"]
    assert [passage.id for passage in passages[:3]] == ["1", "2", "3"]
    assert passages[3].id.startswith("text:")
    with pytest.raises(DataError, match="'1' stands for two texts"):
        passages_of_examples([*rows, TrainingExample("d", ("other",), positive_ids=("1",))])
    with pytest.raises(EmptyCorpusError, match="no passages to mine from"):
        passages_of_examples([])


# -------------------------------------------------------------------------------------------------- bad input


def test_a_query_with_too_few_negatives_is_kept_dropped_or_an_error(
    examples: list[TrainingExample], corpus: list[Passage], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*examples[:2], TrainingExample("zebra", ("unknown words",))]
    result = with_bm25(rows, corpus)
    assert [len(example.negatives) for example in result.examples] == [3, 3, 0]
    assert "1 of 3 queries got fewer than 3 negatives" in caplog.text
    assert result.report.to_dict()["short"]["examples"][0] == {"query": "zebra", "query_id": "", "got": 0}
    assert "1 got 0" in result.report.summary()
    dropped = with_bm25(rows, corpus, short="drop")
    assert [example.query_id for example in dropped.examples] == ["q0", "q1"]
    assert (dropped.report.queries, dropped.report.written, dropped.report.short) == (3, 2, 1)
    with pytest.raises(DataError, match="'zebra' got 0 of 3 negatives; widen the window"):
        with_bm25(rows, corpus, short="error")


def test_what_cannot_be_mined_is_refused(examples: list[TrainingExample], corpus: list[Passage]) -> None:
    with pytest.raises(ConfigError, match="nothing to mine with"):
        mine(examples, corpus, [])
    with pytest.raises(DataError, match="no examples"):
        with_bm25([], corpus)
    with pytest.raises(EmptyCorpusError, match="no passages"):
        with_bm25(examples, [])
    with pytest.raises(ConfigError, match="begins at rank 100 and the corpus has 72"):
        with_bm25(examples, corpus, first_rank=100, last_rank=200)
    with pytest.raises(StoreError, match="searches 72 passages and the corpus has 71"):
        mine(examples, corpus[1:], [Bm25Searcher(corpus)], OPEN)


def test_an_empty_window_is_refused_by_the_settings() -> None:
    with pytest.raises(ValueError, match=r"first_rank \(11\) is behind last_rank \(10\)"):
        MineSettings(first_rank=11, last_rank=10)


# --------------------------------------------------------------------------------------------- files and resume


@pytest.fixture
def files(tmp_path: Path, examples: list[TrainingExample], corpus: list[Passage]) -> dict[str, Path]:
    write_examples(examples, tmp_path / "pairs.jsonl")
    return {
        "pairs": tmp_path / "pairs.jsonl",
        "corpus": write_jsonl(tmp_path / "corpus.jsonl", corpus),
        "output": tmp_path / "out" / "mined.jsonl",
    }


def test_a_finished_output_is_left_alone_and_another_is_not_replaced(files: dict[str, Path]) -> None:
    inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]))
    report = mine_to_file(inputs, files["output"], OPEN)
    assert report is not None
    assert report.mined == 18
    before = files["output"].read_bytes()
    assert mine_to_file(inputs, files["output"], OPEN) is None
    other = OPEN.model_copy(update={"negatives": 2})
    with pytest.raises(OutputExistsError, match=r"settings\.negatives is 3 there and 2 now"):
        mine_to_file(inputs, files["output"], other)
    assert files["output"].read_bytes() == before
    assert mine_to_file(inputs, files["output"], other, overwrite=True) is not None
    assert [len(example.negatives) for example in read_examples(files["output"])] == [2] * 6
    files["output"].write_bytes(before)
    with pytest.raises(OutputExistsError, match="no report that fits it"):
        mine_to_file(inputs, files["output"], other)
    assert sorted(path.name for path in files["output"].parent.iterdir()) == ["mined.jsonl", "mined.jsonl.report.json"]


def test_the_examples_of_a_beir_folder_are_mined_from_its_corpus(
    tmp_path: Path, corpus: list[Passage], examples: list[TrainingExample]
) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", corpus)
    write_jsonl(tmp_path / "queries.jsonl", [Passage(example.query_id, example.query) for example in examples])
    (tmp_path / "qrels").mkdir()
    lines = [f"{example.query_id}\t{example.positive_ids[0]}\t1\n" for example in examples]
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    output = tmp_path / "mined.jsonl.gz"
    mine_to_file(MiningInputs(str(tmp_path)), output, OPEN)
    assert list(read_examples(output)) == with_bm25(examples, corpus).examples
    report = json.loads(report_path(output).read_text(encoding="utf-8"))
    assert (report["stage"], report["results"]["passages"]) == ("mine", 72)
    assert report["results"]["removed"]["known_positive"]["candidates"] == 6


def test_changed_inputs_are_noticed(files: dict[str, Path], corpus: list[Passage]) -> None:
    inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]))
    mine_to_file(inputs, files["output"], OPEN)
    write_jsonl(files["corpus"], corpus[:-1])
    with pytest.raises(OutputExistsError, match=r"inputs\.corpus is"):
        mine_to_file(inputs, files["output"], OPEN)
    with pytest.raises(OutputExistsError, match=r"inputs\.contract_hash is None there and 'c0ffee' now"):
        mine_to_file(dataclasses.replace(inputs, corpus="", encoder=TopicEncoder()), files["output"], OPEN)


def test_a_mining_killed_while_it_encodes_goes_on_from_the_last_shard(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.mine.mining._SHARD_SIZE", 20)

    class Dying(TopicEncoder):
        def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
            if self.passages_encoded >= 40:
                raise KeyboardInterrupt
            return super().encode_passages(passages)

    inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]), encoder=Dying())
    with pytest.raises(KeyboardInterrupt):
        mine_to_file(inputs, files["output"], OPEN)
    assert not files["output"].exists()
    encoder = TopicEncoder()
    report = mine_to_file(dataclasses.replace(inputs, encoder=encoder), files["output"], OPEN)
    assert report is not None
    assert encoder.passages_encoded == 72 - 40
    assert sorted(path.name for path in files["output"].parent.iterdir()) == ["mined.jsonl", "mined.jsonl.report.json"]
    written = json.loads(report_path(files["output"]).read_text(encoding="utf-8"))
    assert written["inputs"]["contract_hash"] == "c0ffee"
    whole = files["output"].with_name("whole.jsonl")
    mine_to_file(dataclasses.replace(inputs, encoder=TopicEncoder()), whole, OPEN)
    assert whole.read_bytes() == files["output"].read_bytes()


def test_a_store_serves_as_corpus_and_must_fit_model_and_corpus(
    files: dict[str, Path], corpus: list[Passage], make_store: Callable[..., VectorStore]
) -> None:
    index = ExactIndex(make_store(corpus))
    inputs = MiningInputs(str(files["pairs"]), encoder=TopicEncoder(), index=index)
    mine_to_file(inputs, files["output"], OPEN)
    with_corpus = dataclasses.replace(inputs, corpus=str(files["corpus"]))
    mine_to_file(with_corpus, files["output"].with_name("same.jsonl"), OPEN)
    assert files["output"].with_name("same.jsonl").read_bytes() == files["output"].read_bytes()
    new = files["output"].with_name("new.jsonl")
    with pytest.raises(StoreError, match="under contract c0ffee and the query model has beef"):
        mine_to_file(dataclasses.replace(inputs, encoder=TopicEncoder("beef")), new, OPEN)
    with pytest.raises(ConfigError, match="needs the model that encoded it"):
        mine_to_file(dataclasses.replace(inputs, encoder=None), new, OPEN)
    other = ExactIndex(make_store(corpus[::-1], "reversed"))
    with pytest.raises(StoreError, match="holds other passages than"):
        mine_to_file(dataclasses.replace(with_corpus, index=other), new, OPEN)
    assert not new.exists()


def test_an_output_that_cannot_be_is_refused_before_any_work(files: dict[str, Path]) -> None:
    inputs = MiningInputs(str(files["pairs"]))
    for output, message in (
        (files["pairs"], "both input and output"),
        (files["output"].with_name("mined.txt"), r"ends in \.jsonl"),
    ):
        with pytest.raises(ConfigError, match=message):
            mine_to_file(inputs, output, OPEN, overwrite=True)
    with pytest.raises(ConfigError, match="nothing to mine with"):
        mine_to_file(inputs, files["output"], OPEN.model_copy(update={"bm25": False}))
    with pytest.raises(Llama2VecError, match="got 0 of 3 negatives"):
        mine_to_file(inputs, files["output"], OPEN.model_copy(update={"short": "error"}))
    assert not files["output"].exists()


# -------------------------------------------------------------------------------------------------- command line


def command(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0, *capfd.readouterr()


def test_the_command_mines_reports_and_then_has_nothing_to_do(
    files: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    call = ["mine", files["pairs"], "-o", files["output"], "--corpus", files["corpus"], "--set", "mine.negatives=2"]
    code, out, _ = command(capfd, *call)
    assert code == 0
    assert "removed         6  known_positive" in out
    assert f"Mined 12 negatives for 6 of 6 queries to {files['output']}" in out
    code, out, _ = command(capfd, *call)
    assert (code, out.count("finished already")) == (0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-bm25"], "nothing to mine with"),
        (["--set", "mine.first_rank=9", "--set", "mine.last_rank=3"], "first_rank (9) is behind last_rank (3)"),
        (["--set", "mine.negativs=3"], "did you mean 'negatives'?"),
        (["--corpus", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--store", "nowhere"], "there is no index at nowhere"),
        (["--set", "mine.short=error", "--set", "mine.negatives=99"], "of 99 negatives; widen"),
    ],
)
def test_the_command_tells_a_mistake_in_one_line(
    options: list[str], message: str, files: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capfd, "mine", files["pairs"], "-o", files["output"], *options)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not files["output"].exists()


def test_the_command_mines_with_a_saved_encoder_and_with_its_store(
    files: dict[str, Path], llama_folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cpu = ["--dtype", "float32", "--device", "cpu"]
    open_filters = ["--set", "mine.max_share_of_positive=0", "--set", "mine.near_duplicate=0"]
    call = ["mine", files["pairs"], "--corpus", files["corpus"], "--no-bm25", *cpu, *open_filters]
    code, out, err = command(capfd, *call, "--model", llama_folder, "-o", files["output"])
    assert code == 0, err
    assert "ranks by model" in out
    command(capfd, "encode", llama_folder, files["corpus"], "-o", tmp_path / "store", *cpu)
    again = tmp_path / "again.jsonl"
    code, _, err = command(capfd, *call, "--store", tmp_path / "store", "-o", again)
    assert code == 0, err
    assert again.read_bytes() == files["output"].read_bytes()
