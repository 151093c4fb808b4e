"""How each system searches a task: a model, BM25 or both, over passages or windows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from word_encoder import LIMIT, PASSAGES, QRELS, WordEncoder, evaluate, options, saved, system, write_task

from llama2vec.data.corpus.passages import corpus_fingerprint, read_passages
from llama2vec.data.tasks.trec import read_run
from llama2vec.errors import ConfigError, EvaluationError
from llama2vec.records import Passage, Run, SentencePair
from llama2vec.retrieve.search.fusion import min_max_fusion
from llama2vec.retrieve.store.writer import write_store
from llama2vec.score.settings import SentenceSides
from llama2vec.score.systems import System, score_pairs

LONG = {
    "late": "mud " * 20 + "castle winter " + "mud " * 5,
    "early": "winter " + "mud " * 30,
    "short": "stone stone",
}


def test_hybrid_joins_the_models_run_with_that_of_bm25_over_one_store(tmp_path: Path) -> None:
    write_task(tmp_path / "beir" / "scifact")
    encoder, runs = WordEncoder(), {}
    for name, one in (
        ("words", system(encoder)), ("bm25", system(name="bm25")), ("both", system(encoder, "both", "hybrid"))
    ):  # fmt: skip
        found = options(tmp_path, name, stores=tmp_path / "stores")
        evaluate(one, ["beir/scifact"], found)
        runs[name] = read_run(tmp_path / name / "beir-scifact.trec")
    expected = min_max_fusion([runs["words"], runs["bm25"]], depth=1000, lexical=[False, True])
    assert runs["both"].tag == "both"
    for query_id, scores in expected.results.items():
        assert runs["both"].results[query_id] == pytest.approx(scores, abs=1e-6)
    assert encoder.read == list(PASSAGES)
    facts = json.loads((tmp_path / "both" / "beir-scifact.json").read_text(encoding="utf-8"))["settings"]
    assert facts["contract_hash"] == "c0ffee"
    assert facts["search"]["fusion"] == "min-max"
    assert facts["search"]["bm25"]["k1"] == 1.2
    with pytest.raises(EvaluationError, match=r"was made with .*search.* choose another --output"):
        evaluate(system(encoder, "words", "hybrid"), ["beir/scifact"], options(tmp_path, "words"))
    with pytest.raises(ConfigError, match="sts/stsb: sentence pairs are not searched; evaluate them without --mode"):
        evaluate(system(encoder, "both", "hybrid"), ["sts/stsb"], options(tmp_path))


def test_hybrid_finds_a_document_by_its_best_window(tmp_path: Path) -> None:
    late = " ".join([*(["stone"] * (3 * LIMIT)), "river"])
    write_task(
        tmp_path / "beir" / "scifact",
        {"d1": late, "d2": "a stone", "d3": "the bridge"},
        {"q1": "river"},
        {"q1": {"d1": 1}},
    )
    both = system(WordEncoder(), "both", "hybrid")
    [score] = evaluate(both, ["beir/scifact"], options(tmp_path, windows="maxp"))
    assert score.report.metrics["nDCG@10"] == 1.0
    assert read_run(tmp_path / "out" / "beir-scifact.trec").ranking("q1")[0][0] == "d1"
    # Scores of earlier versions, which scaled as many windows as they searched, are not taken for these.
    assert saved(tmp_path, "beir-scifact")["settings"]["search"]["scaled_to"] == 1000


def test_bm25_is_a_system_like_any_other(tmp_path: Path) -> None:
    write_task(tmp_path / "beir" / "scifact")
    [score] = evaluate(system(name="bm25"), ["beir/scifact"], options(tmp_path))
    assert score.report.metrics["R@100"] == 1.0
    assert saved(tmp_path, "beir-scifact")["settings"]["encoder"]["k1"] == 1.2
    with pytest.raises(ConfigError, match="sts/stsb: bm25 does not score sentence pairs; give a model"):
        evaluate(system(name="bm25"), ["beir/scifact", "sts/stsb"], options(tmp_path))


def test_sentence_pairs_are_scored_by_the_tasks_headline(tmp_path: Path) -> None:
    rows = ["river\triver\t1", "river\tstone\t0", "river stone\triver\t1", "winter\tmarket\t0"]
    for name in ("lcqmc", "stsb"):
        (tmp_path / "sts" / name).mkdir(parents=True)
        text = "sentence1\tsentence2\tscore\n" + "\n".join(rows)
        (tmp_path / "sts" / name / "test.tsv").write_text(text, encoding="utf-8")
    scores = evaluate(system(WordEncoder()), ["sts/lcqmc", "sts/stsb"], options(tmp_path))
    assert [next(iter(score.report.metrics)) for score in scores] == ["pearson", "spearman"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sts-lcqmc.json", "sts-stsb.json"}
    found = saved(tmp_path, "sts-lcqmc")
    low, high = found["intervals"]["pearson"]
    assert low <= found["metrics"]["pearson"] <= high
    assert next(iter(found["metrics"])) == "pearson"
    again = evaluate(system(WordEncoder()), ["sts/lcqmc"], options(tmp_path))
    assert again[0].result.kept


def test_a_store_that_encode_wrote_is_used_and_kept(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "scifact")
    source = {"fingerprint": corpus_fingerprint(folder), "model": "whatever"}
    write_store(lambda: read_passages(folder), WordEncoder(), tmp_path / "stores" / "mine", source=source)
    encoder = WordEncoder()
    (tmp_path / "stores" / ".lock-mine").touch()  # of a writer that was killed right after finishing
    evaluate(system(encoder), ["beir/scifact"], options(tmp_path, stores=tmp_path / "stores"))
    assert encoder.read == []
    assert [path.name for path in (tmp_path / "stores").iterdir()] == ["mine"]
    # Vectors of another contract are not taken for these.
    other = WordEncoder("another")
    with_other = options(tmp_path, stores=tmp_path / "stores", overwrite=True)
    evaluate(system(other), ["beir/scifact"], with_other)
    assert other.read == list(PASSAGES)
    assert len(list((tmp_path / "stores").iterdir())) == 2


def test_a_store_of_another_number_format_is_not_used(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "scifact")
    rough = WordEncoder()
    rough.dtype = "bfloat16"
    source = {"fingerprint": corpus_fingerprint(folder)}
    write_store(lambda: read_passages(folder), rough, tmp_path / "stores" / "mine", source=source)
    encoder = WordEncoder()
    for name in ("out", "again"):
        evaluate(system(encoder), ["beir/scifact"], options(tmp_path, name, stores=tmp_path / "stores"))
    assert encoder.read == list(PASSAGES)
    evaluate(system(rough), ["beir/scifact"], options(tmp_path, "rough", stores=tmp_path / "stores"))
    assert rough.read == list(PASSAGES)


def test_a_store_of_documents_that_were_split_is_not_used(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "scifact")
    source = {"fingerprint": corpus_fingerprint(folder), "passages": {"max_tokens": 4}}
    passages = [replace(passage, id=f"{passage.id}#1") for passage in read_passages(folder)]
    write_store(lambda: iter(passages), WordEncoder(), tmp_path / "stores" / "mine", source=source)
    encoder = WordEncoder()
    [score] = evaluate(system(encoder), ["beir/scifact"], options(tmp_path, stores=tmp_path / "stores"))
    assert encoder.read == list(PASSAGES)
    assert score.report.metrics["R@100"] == 1.0


def test_a_store_with_rounded_vectors_is_named_and_an_exact_one_preferred(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, stores = write_task(tmp_path / "scifact"), tmp_path / "stores"
    source = {"fingerprint": corpus_fingerprint(folder)}
    for name, dtype in (("a", "int8"), ("b", "float32")):
        write_store(lambda: read_passages(folder), WordEncoder(), stores / name, source=source, dtype=dtype)  # type: ignore[arg-type]
    given = options(tmp_path, stores=stores)
    [score] = evaluate(system(WordEncoder()), ["beir/scifact"], given)
    assert score.report.settings["vector_dtype"] == "float32"
    assert "rounded" not in caplog.text
    shutil.rmtree(stores / "b")
    encoder = WordEncoder()
    [score] = evaluate(system(encoder), ["beir/scifact"], options(tmp_path, "rounded", stores=stores))
    assert (score.report.settings["vector_dtype"], encoder.read) == ("int8", [])
    assert f"{stores / 'a'} holds vectors rounded to int8, and the scores are theirs" in caplog.messages


def found_by(run: dict[str, dict[str, float]], name: str = "theirs") -> System:
    return System(name, run=Run(run, name))


def test_a_run_of_another_corpus_or_of_no_query_is_refused(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    other = write_task(tmp_path / "other", queries={"x1": "river"}, qrels={"x1": {"d1": 1}})
    split = {query: {f"d{number}#1": 1.0 / number for number in range(1, 6)} for query in QRELS}
    problem = r"run 'theirs': .*scifact lacks 5 of 5 passages that it returned; give the corpus that was searched"
    with pytest.raises(EvaluationError, match=problem):
        evaluate(found_by(split), ["beir/scifact"], options(tmp_path))
    fits = found_by({query: {"d1": 1.0} for query in QRELS})
    problem = r"other/test: run 'theirs' answers none of 1 judged query; is it of another task or split\?"
    with pytest.raises(EvaluationError, match=problem):
        evaluate(fits, ["beir/scifact", str(other)], options(tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_run_that_fits_in_part_is_scored_with_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    passages = {**PASSAGES, **{f"p{number}": "mud" for number in range(20)}}
    folder = write_task(tmp_path / "mine", passages)
    whole = {query: {name: 1.0 / place for place, name in enumerate(passages, start=1)} for query in QRELS}
    evaluate(found_by(whole), [str(folder)], options(tmp_path, "whole"))
    # What BM25 does not find is no fault of the run.
    evaluate(found_by({**whole, "q1": {"d1": 1.0}}), [str(folder)], options(tmp_path, "few"))
    assert caplog.messages == []
    cut = {query: {"d1": 3.0, "d2": 2.0, "gone": 1.0} for query in ("q1", "q2")}
    evaluate(found_by(cut), [str(folder)], options(tmp_path))
    assert caplog.messages == [
        f"run 'theirs': {folder} lacks 1 of 3 passages that it returned",
        "run 'theirs' lacks 1 of 3 judged queries of mine/test, and scores 0 for each; is it of another split, or was "
        "it cut off?",
        "mine/test: run 'theirs' ends after 3 passages per query, and what it lacks counts as not found in nDCG@10, "
        "MRR@10, R@100; give a longer run",
    ]


def test_maxp_finds_an_answer_past_the_limit_where_firstp_does_not(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "long", LONG, {"q": "castle winter"}, {"q": {"late": 1}})
    ranks = {}
    for kind, tokens in (("firstp", None), ("maxp", None), ("maxp", 4), (None, None)):
        given = options(tmp_path, f"{kind}{tokens}", windows=kind, window_tokens=tokens)
        [score] = evaluate(system(WordEncoder()), [str(folder)], given)
        ranks[kind, tokens] = score.report.metrics["MRR@10"]
        run = read_run(given.output / "long-test.trec")
        assert set(run.results["q"]) == set(LONG)
    assert ranks["maxp", None] == ranks["maxp", 4] == 1.0
    assert ranks["firstp", None] == ranks[None, None] < 1.0


def test_tasks_of_long_documents_are_read_by_their_first_window_unless_told_otherwise(tmp_path: Path) -> None:
    write_task(tmp_path / "msmarco-document", LONG, {"q": "castle winter"}, {"q": {"late": 1}}, split="dev")
    encoder = WordEncoder()
    [score] = evaluate(system(encoder), ["msmarco/document/dev"], options(tmp_path))
    assert encoder.read == ["late#0", "early#0", "short#0"]
    windows = score.report.settings["windows"]
    assert windows == {"kind": "firstp", "tokens": LIMIT, "stride": LIMIT}
    assert saved(tmp_path, "msmarco-document-dev")["settings"]["depth"] == 100
    [bm25] = evaluate(system(name="bm25"), ["msmarco/document/dev"], options(tmp_path, "bm25"))
    assert bm25.report.settings["windows"] is None
    assert bm25.report.metrics["MRR@100"] == 1.0


def test_hybrid_adds_what_bm25_finds_in_whole_documents_to_the_models_first_windows(tmp_path: Path) -> None:
    write_task(tmp_path / "msmarco-document", LONG, {"q": "castle winter"}, {"q": {"late": 1}}, split="dev")
    name, runs = ["msmarco/document/dev"], {}
    for one in (system(WordEncoder()), system(name="bm25"), system(WordEncoder(), "both", "hybrid")):
        [score] = evaluate(one, name, options(tmp_path, one.name))
        runs[one.name] = read_run(tmp_path / one.name / "msmarco-document-dev.trec")
    assert score.report.metrics["MRR@100"] == 1.0
    assert score.report.settings["search"]["bm25_reads"] == "whole documents"
    expected = min_max_fusion([runs["words"], runs["bm25"]], depth=100, lexical=[False, True])
    assert runs["both"].tag == "both"
    assert runs["both"].results["q"] == pytest.approx(expected.results["q"], abs=1e-6)
    # With a size, BM25 alone reads the first words too, and so it does in the two together.
    given = {"windows": "firstp", "window_tokens": 6}
    [score] = evaluate(system(WordEncoder(), "both", "hybrid"), name, options(tmp_path, "sized", **given))
    assert score.report.settings["search"]["bm25_reads"] == {"kind": "firstp", "tokens": 6, "stride": 6}
    assert score.report.metrics["MRR@100"] < 1.0


def test_a_hybrid_on_first_windows_by_an_earlier_version_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path / "msmarco-document", LONG, {"q": "castle winter"}, {"q": {"late": 1}}, split="dev")
    both, name = system(WordEncoder(), "both", "hybrid"), ["msmarco/document/dev"]
    with monkeypatch.context() as patch:
        first = {"kind": "firstp", "tokens": LIMIT, "stride": LIMIT}
        patch.setattr("llama2vec.score.evaluator.window_facts", lambda *_: {"windows": first})
        evaluate(both, name, options(tmp_path))
    with pytest.raises(EvaluationError, match=r"was made with search"):
        evaluate(both, name, options(tmp_path))


def test_bm25_reads_the_language_it_is_told(tmp_path: Path) -> None:
    passages = {"d1": "羊驼在安第斯山脉背负重物。", "d2": "骆驼在沙漠里行走。"}
    write_task(tmp_path / "beir" / "scifact", passages, {"q1": "安第斯的羊驼"}, {"q1": {"d1": 1}})
    one = system(name="bm25")
    [score] = evaluate(one, ["beir/scifact"], options(tmp_path, language="zh"))
    assert score.report.metrics["nDCG@10"] == 1.0
    assert saved(tmp_path, "beir-scifact")["settings"]["encoder"]["language"] == "zh"
    with pytest.raises(EvaluationError, match=r"was made with encoder.*zh.*choose another --output"):
        evaluate(system(name="bm25"), ["beir/scifact"], options(tmp_path))


def test_bm25_counts_windows_in_words(tmp_path: Path) -> None:
    write_task(tmp_path / "msmarco-document", LONG, {"q": "castle winter"}, {"q": {"late": 1}}, split="dev")
    name = ["msmarco/document/dev"]
    with pytest.raises(ConfigError, match="set window_tokens, counted in words"):
        evaluate(system(name="bm25"), name, options(tmp_path, windows="maxp"))
    [whole] = evaluate(system(name="bm25"), name, options(tmp_path, "whole", windows="firstp"))
    assert (whole.report.settings["windows"], whole.report.metrics["MRR@100"]) == (None, 1.0)
    ranks = {}
    for kind in ("maxp", "firstp"):
        given = options(tmp_path, kind, windows=kind, window_tokens=6)
        [score] = evaluate(system(name="bm25"), name, given)
        ranks[kind] = score.report.metrics["MRR@100"]
    assert ranks == {"maxp": 1.0, "firstp": 0.0}


def test_arguanas_queries_do_not_find_themselves(tmp_path: Path) -> None:
    passages = {"d1": "river stone", "d2": "river bridge", "d3": "castle"}
    write_task(tmp_path / "arguana", passages, {"d1": "river stone"}, {"d1": {"d2": 1}})
    [score] = evaluate(system(WordEncoder()), ["beir/arguana"], options(tmp_path))
    assert score.report.metrics["MRR@10"] == 1.0
    assert set(read_run(tmp_path / "out" / "beir-arguana.trec").results["d1"]) == {"d2", "d3"}
    # Elsewhere an id in common is a coincidence, and with its own passage in the way the query does worse.
    other = options(tmp_path, "with", exclude_same_id=False)
    assert evaluate(system(WordEncoder()), ["beir/arguana"], other)[0].report.metrics["MRR@10"] == 0.5
    [bm25] = evaluate(system(name="bm25"), ["beir/arguana"], options(tmp_path, "bm25"))
    assert bm25.report.metrics["MRR@10"] == 1.0
    # One passage more than is kept is searched for; scores of earlier versions, which scaled it too, are not taken.
    evaluate(system(WordEncoder(), "both", "hybrid"), ["beir/arguana"], options(tmp_path, "both"))
    facts = json.loads((tmp_path / "both" / "beir-arguana.json").read_text(encoding="utf-8"))["settings"]
    assert facts["search"]["scaled_to"] == 1000


@pytest.mark.parametrize(
    ("sides", "queries", "passages"),
    [
        ("query", ["river", "stone", "winter"], None),
        ("passage", None, ["river", "stone", "winter"]),
        ("both", ["river", "winter"], ["stone", "river"]),
    ],
)
def test_sentence_pairs_are_read_as_the_sides_say(
    sides: SentenceSides, queries: list[str] | None, passages: list[str] | None, tmp_path: Path
) -> None:
    class Recording(WordEncoder):
        queries: list[str] | None = None
        passages: list[str] | None = None

        def encode_queries(self, queries: Any, **_: Any) -> Any:
            self.queries = list(queries)
            return super().encode_queries(queries)

        def encode_passages(self, passages: Any, **_: Any) -> Any:
            self.passages = list(passages)
            return super().encode_passages([Passage(text, text) for text in passages])

    encoder = Recording()
    pairs = [SentencePair("river", "stone", 1.0), SentencePair("winter", "river", 0.0)]
    found = score_pairs(encoder, pairs, task="sts/own", name="words", sides=sides)  # type: ignore[arg-type]
    assert found.settings == {"pairs": 2}
    assert (encoder.queries, encoder.passages) == (queries, passages)


def test_the_sides_of_sentence_pairs_decide_a_result_where_they_are_chosen(tmp_path: Path) -> None:
    (tmp_path / "sts" / "stsb").mkdir(parents=True)
    rows = "sentence1\tsentence2\tscore\nriver\triver\t1\nriver\tstone\t0\nriver stone\triver\t1\n"
    (tmp_path / "sts" / "stsb" / "test.tsv").write_text(rows, encoding="utf-8")
    evaluate(system(WordEncoder()), ["sts/stsb"], options(tmp_path))
    assert "sentence_sides" not in saved(tmp_path, "sts-stsb")["settings"]
    with pytest.raises(EvaluationError, match=r"was made with .*sentence_sides"):
        evaluate(system(WordEncoder()), ["sts/stsb"], options(tmp_path, sentence_sides="both"))
    evaluate(system(WordEncoder()), ["sts/stsb"], options(tmp_path, "both", sentence_sides="both"))
    with pytest.raises(EvaluationError, match="was made with sentence_sides 'both', and now it is None"):
        evaluate(system(WordEncoder()), ["sts/stsb"], options(tmp_path, "both"))


@pytest.mark.parametrize("windows", [None, "maxp"])
def test_queries_that_the_model_cuts_are_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, windows: Any
) -> None:
    queries = {"q1": f"{'river ' * LIMIT}stone", "q2": "stone", "q3": "winter castle"}
    folder = write_task(tmp_path / "long", queries=queries)
    # With a small depth, windows are searched again and again.
    sets = {"windows": windows, "depth": 2, "metrics": ["R@2"]}
    evaluate(system(WordEncoder()), [str(folder)], options(tmp_path, **sets))
    assert [line for line in caplog.messages if "only the beginning" in line] == [
        "long/test: the model reads only the beginning of 1 of 3 queries (33.3 %), and the rest of each after 8 tokens "
        "is not in its vector; raise query_max_tokens"
    ]
    caplog.clear()
    evaluate(system(name="bm25"), [str(folder)], options(tmp_path, "words"))
    assert "only the beginning" not in caplog.text


def test_sentences_that_the_model_cuts_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "own.tsv").write_text(
        f"sentence1\tsentence2\tscore\n{'river ' * LIMIT}stone\triver\t1\nriver\tstone\t0\n", encoding="utf-8"
    )
    evaluate(system(WordEncoder()), [str(tmp_path / "own.tsv")], options(tmp_path))
    assert [line.partition(",")[0] for line in caplog.messages if "only the beginning" in line] == [
        "sts/own: the model reads only the beginning of 1 of 3 sentences (33.3 %)"
    ]


def test_queries_without_text_or_without_a_relevant_passage_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries = {"q1": "river", "q2": " ", "q3": "winter castle"}
    qrels = {"q1": {"d1": 0, "d4": -1}, "q2": {"d2": 0}, "q3": {"d5": 0}}
    folder = write_task(tmp_path / "odd", queries=queries, qrels=qrels)
    [score] = evaluate(system(WordEncoder()), [str(folder)], options(tmp_path))
    assert set(score.report.metrics.values()) == {0.0}
    assert [line for line in caplog.messages if "no " in line] == [
        "odd/test: 3 of 3 judged queries have no relevant passage in the judgments, and count as 0 in the means",
        "odd/test: 1 query ('q2') has no text, and its ranking means nothing; write or remove it",
    ]
    caplog.clear()
    evaluate(system(WordEncoder()), [str(write_task(tmp_path / "good"))], options(tmp_path, "fine"))
    assert not [line for line in caplog.messages if "relevant" in line or "no text" in line]
