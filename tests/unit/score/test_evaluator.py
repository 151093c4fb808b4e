"""Many tasks into one folder: resumed, averaged, cut into windows, refused where something does not fit."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.data.trec import read_qrels, read_run
from llama2vec.data.windows import word_spans
from llama2vec.errors import ConfigError, DataError, EvaluationError, OutputExistsError, RunFormatError, StoreError
from llama2vec.records import Passage, Query
from llama2vec.retrieve.fusion import weighted_fusion
from llama2vec.retrieve.store_writer import write_store
from llama2vec.score import evaluator as evaluation
from llama2vec.score.evaluator import EvaluationOptions, System, encode_tasks, evaluate_tasks
from llama2vec.score.metrics import evaluate_run
from llama2vec.score.scoring import SearchMode
from llama2vec.score.task_table import averages, task_table
from llama2vec.score.tasks import TASKS, Task

WORDS = ("river", "stone", "bridge", "castle", "winter", "market")
LIMIT = 8


class WordTokenizer:
    """Words are tokens."""

    is_fast = True

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        return {"offset_mapping": word_spans(text)}


class WordEncoder:
    """A vector says which of six words stand among the first eight of a text; it counts what it read."""

    dimension = len(WORDS)

    def __init__(self, contract_hash: str = "c0ffee", fault: float = 0.0) -> None:
        self.contract_hash = contract_hash
        settings = EncoderSettings(passage_max_tokens=LIMIT)
        self.contract = SimpleNamespace(encoder=settings, prompts=PromptSettings())
        self.backbone = SimpleNamespace(tokenizer=WordTokenizer(), model=SimpleNamespace(dtype="torch.float32"))
        self.fault = fault
        self.read: list[str] = []

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        kept = [text.split()[:LIMIT] for text in texts]
        counts = np.array([[words.count(word) for word in WORDS] for words in kept], dtype=np.float32) + 0.01
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True) + self.fault).astype(np.float32)

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        self.read += [passage.id for passage in passages]
        return self._vectors([passage.full_text for passage in passages])

    def encode_queries(self, queries: Sequence[Query] | Sequence[str], /) -> npt.NDArray[np.float32]:
        return self._vectors([query.text if isinstance(query, Query) else query for query in queries])


def system(encoder: Any = None, name: str = "words", mode: SearchMode = "dense") -> System:
    return System(name, encoder, mode)


PASSAGES = {"d1": "a river", "d2": "a stone", "d3": "the bridge", "d4": "river stone", "d5": "winter market"}
QUERIES = {"q1": "river", "q2": "stone", "q3": "winter castle"}
QRELS = {"q1": {"d1": 1, "d4": 2}, "q2": {"d2": 1}, "q3": {"d5": 1, "d3": 0}}


def write_task(
    folder: Path,
    passages: Mapping[str, str] = PASSAGES,
    queries: Mapping[str, str] = QUERIES,
    qrels: Mapping[str, Mapping[str, int]] = QRELS,
    split: str = "test",
) -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", passages), ("queries", queries)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in rows.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lines = [f"{query}\t{passage}\t{gain}" for query, gains in qrels.items() for passage, gain in gains.items()]
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def options(tmp_path: Path, **changes: Any) -> EvaluationOptions:
    return EvaluationOptions(tmp_path / "out", tmp_path, **changes)


def saved(tmp_path: Path, stem: str) -> dict[str, Any]:
    return dict(json.loads((tmp_path / "out" / f"{stem}.json").read_text(encoding="utf-8")))


# ---------------------------------------------------------------------------------------------------------- the whole


def test_a_task_leaves_scores_values_per_query_and_a_run_that_agree(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "beir" / "scifact")
    encoder = WordEncoder()
    [score] = evaluate_tasks(system(encoder), ["beir/scifact"], options(tmp_path))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "beir-scifact.json", "beir-scifact.per-query.tsv", "beir-scifact.trec"
    }  # fmt: skip
    run = read_run(tmp_path / "out" / "beir-scifact.trec")
    again = evaluate_run(run, read_qrels(folder / "qrels" / "test.tsv"), measures=TASKS["beir/scifact"].measures)
    found = saved(tmp_path, "beir-scifact")
    assert (found["task"], found["system"], run.tag) == ("beir/scifact", "words", "words")
    assert found["metrics"] == again.metrics == score.report.metrics
    lines = (tmp_path / "out" / "beir-scifact.per-query.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t") == ["query", "system", "measure", "value"]
    assert len(lines) == 1 + 3 * 3
    facts = found["settings"]
    assert facts["contract_hash"] == "c0ffee"
    assert facts["encoder"]["passage_max_tokens"] == LIMIT
    assert facts["prompts"] == PromptSettings().model_dump()
    assert facts["versions"].keys() >= {"python", "llama2vec", "numpy"}
    assert (facts["source"], facts["depth"], facts["passages"]) == (str(folder), 1000, 5)
    assert re.fullmatch("[0-9a-f]{64}", facts["corpus_fingerprint"])
    assert found["seconds"] >= 0
    assert encoder.read == list(PASSAGES)


def test_hybrid_joins_the_models_run_with_that_of_bm25_over_one_store(tmp_path: Path) -> None:
    write_task(tmp_path / "beir" / "scifact")
    encoder, runs = WordEncoder(), {}
    for name, one in (
        ("words", system(encoder)), ("bm25", system(name="bm25")), ("both", system(encoder, "both", "hybrid"))
    ):  # fmt: skip
        found = EvaluationOptions(tmp_path / name, tmp_path, stores=tmp_path / "stores")
        evaluate_tasks(one, ["beir/scifact"], found)
        runs[name] = read_run(tmp_path / name / "beir-scifact.trec")
    expected = weighted_fusion([runs["words"], runs["bm25"]], depth=1000)
    assert runs["both"].tag == "both"
    for query_id, scores in expected.results.items():
        assert runs["both"].results[query_id] == pytest.approx(scores, abs=1e-6)
    assert encoder.read == list(PASSAGES)
    facts = json.loads((tmp_path / "both" / "beir-scifact.json").read_text(encoding="utf-8"))["settings"]
    assert facts["contract_hash"] == "c0ffee"
    assert facts["search"]["fusion"] == "min-max"
    assert facts["search"]["bm25"]["k1"] == 1.2
    with pytest.raises(EvaluationError, match=r"was made with .*search.* choose another --output"):
        evaluate_tasks(
            system(encoder, "words", "hybrid"), ["beir/scifact"], EvaluationOptions(tmp_path / "words", tmp_path)
        )
    with pytest.raises(ConfigError, match="sts/stsb: sentence pairs are not searched; leave out --mode hybrid"):
        evaluate_tasks(system(encoder, "both", "hybrid"), ["sts/stsb"], options(tmp_path))


def test_hybrid_finds_a_document_by_its_best_window(tmp_path: Path) -> None:
    late = " ".join([*(["stone"] * (3 * LIMIT)), "river"])
    write_task(
        tmp_path / "beir" / "scifact",
        {"d1": late, "d2": "a stone", "d3": "the bridge"},
        {"q1": "river"},
        {"q1": {"d1": 1}},
    )
    both = system(WordEncoder(), "both", "hybrid")
    [score] = evaluate_tasks(both, ["beir/scifact"], options(tmp_path, windows="maxp"))
    assert score.report.metrics["nDCG@10"] == 1.0
    assert read_run(tmp_path / "out" / "beir-scifact.trec").ranking("q1")[0][0] == "d1"


def test_bm25_is_a_system_like_any_other(tmp_path: Path) -> None:
    write_task(tmp_path / "beir" / "scifact")
    [score] = evaluate_tasks(system(name="bm25"), ["beir/scifact"], options(tmp_path))
    assert score.report.metrics["R@100"] == 1.0
    assert saved(tmp_path, "beir-scifact")["settings"]["encoder"]["k1"] == 1.2
    with pytest.raises(ConfigError, match="sts/stsb: bm25 does not score sentence pairs; give a model"):
        evaluate_tasks(system(name="bm25"), ["beir/scifact", "sts/stsb"], options(tmp_path))


def test_sentence_pairs_are_scored_by_the_tasks_headline(tmp_path: Path) -> None:
    rows = ["river\triver\t1", "river\tstone\t0", "river stone\triver\t1", "winter\tmarket\t0"]
    for name in ("lcqmc", "stsb"):
        (tmp_path / "sts" / name).mkdir(parents=True)
        text = "sentence1\tsentence2\tscore\n" + "\n".join(rows)
        (tmp_path / "sts" / name / "test.tsv").write_text(text, encoding="utf-8")
    scores = evaluate_tasks(system(WordEncoder()), ["sts/lcqmc", "sts/stsb"], options(tmp_path))
    assert [next(iter(score.report.metrics)) for score in scores] == ["pearson", "spearman"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sts-lcqmc.json", "sts-stsb.json"}
    found = saved(tmp_path, "sts-lcqmc")
    low, high = found["intervals"]["pearson"]
    assert low <= found["metrics"]["pearson"] <= high
    assert next(iter(found["metrics"])) == "pearson"
    again = evaluate_tasks(system(WordEncoder()), ["sts/lcqmc"], options(tmp_path))
    assert again[0].skipped


def test_tasks_over_one_corpus_encode_it_once_and_leave_no_store(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "msmarco", split="dl19")
    write_task(folder, split="dl20")
    encoder = WordEncoder()
    evaluate_tasks(system(encoder), ["trec-dl/2019", "trec-dl/2020"], options(tmp_path))
    assert encoder.read == list(PASSAGES)
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_a_store_that_encode_wrote_is_used_and_kept(tmp_path: Path) -> None:
    from llama2vec.data.corpus import corpus_fingerprint, read_passages

    folder = write_task(tmp_path / "scifact")
    source = {"fingerprint": corpus_fingerprint(folder), "model": "whatever"}
    write_store(lambda: read_passages(folder), WordEncoder(), tmp_path / "stores" / "mine", source=source)
    encoder = WordEncoder()
    evaluate_tasks(system(encoder), ["beir/scifact"], options(tmp_path, stores=tmp_path / "stores"))
    assert encoder.read == []
    # Vectors of another contract are not taken for these.
    other = WordEncoder("another")
    with_other = options(tmp_path, stores=tmp_path / "stores", overwrite=True)
    evaluate_tasks(system(other), ["beir/scifact"], with_other)
    assert other.read == list(PASSAGES)
    assert len(list((tmp_path / "stores").iterdir())) == 2


def test_corpora_can_be_encoded_first_and_scored_later(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    encoder = WordEncoder()
    given = options(tmp_path, stores=tmp_path / "stores", windows="maxp")
    [store] = encode_tasks(system(encoder), ["beir/scifact"], given)
    assert (len(store), encoder.read) == (5, [f"{name}#0" for name in PASSAGES])
    assert not (tmp_path / "out").exists()
    evaluate_tasks(system(encoder), ["beir/scifact"], given)
    assert len(encoder.read) == 5
    # A damaged store is written anew.
    next(store.path.glob("*.vectors.npy")).write_bytes(b"")
    evaluate_tasks(system(encoder), ["beir/scifact"], replace(given, overwrite=True))
    assert len(encoder.read) == 10
    with pytest.raises(ConfigError, match="give a model and --store"):
        encode_tasks(system(encoder), ["beir/scifact"], options(tmp_path))


# --------------------------------------------------------------------------------------------------------- resuming


def test_finished_tasks_are_skipped_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_task(tmp_path / "beir" / "scifact")
    write_task(tmp_path / "beir" / "nfcorpus")
    first = evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    before = (tmp_path / "out" / "beir-scifact.json").read_bytes()
    encoder = WordEncoder()
    caplog.set_level(logging.INFO)
    scores = evaluate_tasks(system(encoder), ["beir/scifact", "beir/nfcorpus"], options(tmp_path))
    assert [score.skipped for score in scores] == [True, False]
    assert "beir/scifact: finished already, skipped" in caplog.messages
    assert scores[0].report.metrics == first[0].report.metrics
    assert (tmp_path / "out" / "beir-scifact.json").read_bytes() == before
    assert len(encoder.read) == 5


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path / "beir" / "scifact")
    write_task(tmp_path / "beir" / "nfcorpus", {f"p{n}": "a river" for n in range(20)}, QUERIES, {"q1": {"p3": 1}})
    monkeypatch.setattr("llama2vec.score.scoring._SHARD_SIZE", 4)
    names = ["beir/scifact", "beir/nfcorpus"]

    class Killed(WordEncoder):
        def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
            if passages[0].id == "p8":
                raise KeyboardInterrupt
            return super().encode_passages(passages)

    with pytest.raises(KeyboardInterrupt):
        evaluate_tasks(system(Killed()), names, options(tmp_path))
    assert (tmp_path / "out" / "beir-scifact.json").is_file()
    assert not (tmp_path / "out" / "beir-nfcorpus.json").exists()
    encoder = WordEncoder()
    scores = evaluate_tasks(system(encoder), names, options(tmp_path))
    assert encoder.read == [f"p{n}" for n in range(8, 20)]
    assert [score.skipped for score in scores] == [True, False]
    whole = evaluate_tasks(system(WordEncoder()), names, EvaluationOptions(tmp_path / "whole", tmp_path))
    assert [score.report.metrics for score in whole] == [score.report.metrics for score in scores]
    assert not (tmp_path / "out" / ".unfinished").exists()


@pytest.mark.parametrize("part", ["corpus", "queries", "qrels"])
def test_data_that_changed_since_is_refused_and_scored_anew_when_asked(tmp_path: Path, part: str) -> None:
    folder = write_task(tmp_path / "beir" / "scifact")
    evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    before = saved(tmp_path, "beir-scifact")
    changed = {
        "corpus": {"passages": {**PASSAGES, "d6": "new"}},
        "queries": {"queries": {**QUERIES, "q1": "market"}},
        "qrels": {"qrels": {**QRELS, "q2": {"d3": 1}}},
    }[part]
    write_task(folder, **changed)  # type: ignore[arg-type]
    what = "corpus" if part == "corpus" else "queries or judgments"
    with pytest.raises(
        EvaluationError, match=f"beir/scifact: the {what} of .*scifact changed since .*json was made .*--overwrite"
    ):
        evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    assert saved(tmp_path, "beir-scifact") == before
    [score] = evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path, overwrite=True))
    assert not score.skipped
    assert saved(tmp_path, "beir-scifact")["settings"] != before["settings"]


@pytest.mark.parametrize(
    ("encoder", "changes", "problem"),
    [
        (WordEncoder("0ther"), {}, "contract_hash 'c0ffee', and now it is '0ther'"),
        (WordEncoder(), {"depth": 3}, "depth 1000, and now it is 3"),
        (WordEncoder(), {"measures": ("AP",)}, r"measures \[.*, and now it is \['AP'\]"),
        (WordEncoder(), {"windows": "maxp"}, "windows None, and now it is"),
    ],
)
def test_scores_of_another_model_or_other_settings_are_not_replaced(
    tmp_path: Path, encoder: Any, changes: dict[str, Any], problem: str
) -> None:
    write_task(tmp_path / "scifact")
    evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    with pytest.raises(EvaluationError, match=rf"beir-scifact\.json was made with {problem}.*--overwrite"):
        evaluate_tasks(system(encoder), ["beir/scifact"], options(tmp_path, **changes))


def test_a_file_that_is_no_evaluation_is_not_replaced(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    (tmp_path / "out").mkdir()
    for content in ("mine", "{}", '{"format": "llama2vec-evaluation", "version": 1}'):
        (tmp_path / "out" / "beir-scifact.json").write_text(content, encoding="utf-8")
        with pytest.raises(OutputExistsError, match=r"beir-scifact\.json is there already and no evaluation"):
            evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
        assert (tmp_path / "out" / "beir-scifact.json").read_text(encoding="utf-8") == content


def test_a_task_whose_run_was_deleted_is_scored_again(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    (tmp_path / "out" / "beir-scifact.trec").unlink()
    [score] = evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    assert not score.skipped
    assert (tmp_path / "out" / "beir-scifact.trec").is_file()


# ------------------------------------------------------------------------------------------------- windows, averages


LONG = {
    "late": "mud " * 20 + "castle winter " + "mud " * 5,
    "early": "winter " + "mud " * 30,
    "short": "stone stone",
}


def test_maxp_finds_an_answer_past_the_limit_where_firstp_does_not(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "long", LONG, {"q": "castle winter"}, {"q": {"late": 1}})
    ranks = {}
    for kind, tokens in (("firstp", None), ("maxp", None), ("maxp", 4), (None, None)):
        given = EvaluationOptions(tmp_path / f"{kind}{tokens}", tmp_path, windows=kind, window_tokens=tokens)  # type: ignore[arg-type]
        [score] = evaluate_tasks(system(WordEncoder()), [str(folder)], given)
        ranks[kind, tokens] = score.report.metrics["MRR@10"]
        run = read_run(given.output / "long-test.trec")
        assert set(run.results["q"]) == set(LONG)
    assert ranks["maxp", None] == ranks["maxp", 4] == 1.0
    assert ranks["firstp", None] == ranks[None, None] < 1.0


def test_tasks_of_long_documents_are_read_by_their_first_window_unless_told_otherwise(tmp_path: Path) -> None:
    write_task(tmp_path / "msmarco-document", LONG, {"q": "castle winter"}, {"q": {"late": 1}}, split="dev")
    encoder = WordEncoder()
    [score] = evaluate_tasks(system(encoder), ["msmarco/document/dev"], options(tmp_path))
    assert encoder.read == ["late#0", "early#0", "short#0"]
    windows = score.report.settings["windows"]
    assert windows == {"kind": "firstp", "tokens": LIMIT, "stride": LIMIT}
    assert saved(tmp_path, "msmarco-document-dev")["settings"]["depth"] == 100
    [bm25] = evaluate_tasks(
        system(name="bm25"), ["msmarco/document/dev"], EvaluationOptions(tmp_path / "bm25", tmp_path)
    )
    assert bm25.report.settings["windows"] is None
    assert bm25.report.metrics["MRR@100"] == 1.0


def test_bm25_reads_the_language_it_is_told(tmp_path: Path) -> None:
    passages = {"d1": "羊驼在安第斯山脉背负重物。", "d2": "骆驼在沙漠里行走。"}
    write_task(tmp_path / "beir" / "scifact", passages, {"q1": "安第斯的羊驼"}, {"q1": {"d1": 1}})
    one = System("bm25", language="zh")
    [score] = evaluate_tasks(one, ["beir/scifact"], options(tmp_path))
    assert score.report.metrics["nDCG@10"] == 1.0
    assert saved(tmp_path, "beir-scifact")["settings"]["encoder"]["language"] == "zh"
    with pytest.raises(EvaluationError, match=r"was made with encoder.*zh.*choose another --output"):
        evaluate_tasks(System("bm25"), ["beir/scifact"], options(tmp_path))


def test_bm25_counts_windows_in_words(tmp_path: Path) -> None:
    write_task(tmp_path / "msmarco-document", LONG, {"q": "castle winter"}, {"q": {"late": 1}}, split="dev")
    name = ["msmarco/document/dev"]
    with pytest.raises(ConfigError, match="give --window-tokens, counted in words"):
        evaluate_tasks(system(name="bm25"), name, options(tmp_path, windows="maxp"))
    ranks = {}
    for kind in ("maxp", "firstp"):
        given = EvaluationOptions(tmp_path / kind, tmp_path, windows=kind, window_tokens=6)  # type: ignore[arg-type]
        [score] = evaluate_tasks(system(name="bm25"), name, given)
        ranks[kind] = score.report.metrics["MRR@100"]
    assert ranks == {"maxp": 1.0, "firstp": 0.0}


def test_a_system_that_finds_nothing_at_all_is_not_scored(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact", queries=dict.fromkeys(QUERIES, "unheard"))
    with pytest.raises(EvaluationError, match="beir/scifact: bm25 finds nothing for any of the 3 queries"):
        evaluate_tasks(system(name="bm25"), ["beir/scifact"], options(tmp_path))
    assert not (tmp_path / "out" / "beir-scifact.json").exists()


def test_windows_longer_than_the_encoder_reads_are_refused(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    with pytest.raises(ConfigError, match=f"windows of 9 tokens are longer than the {LIMIT} that words reads"):
        evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path, windows="maxp", window_tokens=9))
    with pytest.raises(ConfigError, match="no document is cut into windows; give --windows"):
        evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path, window_tokens=4))


@pytest.fixture
def forums(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Make the average of two small forums, of different sizes, a task."""
    tasks = dict(TASKS)
    names = []
    for name in ("android", "tex"):
        task = TASKS[f"beir/cqadupstack/{name}"]
        tasks[task.name] = task
        names.append(task.name)
        write_task(tmp_path / task.places[0])
    worse = {"q1": {"d3": 1}, "q2": {"d3": 1}, "q3": {"d5": 1}}
    write_task(tmp_path / TASKS["beir/cqadupstack/tex"].places[0], qrels=worse)
    tasks["beir/two"] = Task("beir/two", "retrieval", ("nDCG@10", "MRR@10"), members=tuple(names))
    monkeypatch.setattr("llama2vec.score.tasks.TASKS", tasks)
    monkeypatch.setattr(evaluation, "TASKS", tasks)

    def delete() -> None:
        for file in (tmp_path / "out").glob("beir-two.*"):
            file.unlink()

    return delete


def test_members_are_scored_by_themselves_and_averaged(tmp_path: Path, forums: Callable[[], None]) -> None:
    given = options(tmp_path, measures=("nDCG@10", "MRR@10"))
    [score] = evaluate_tasks(system(WordEncoder()), ["beir/two"], given)
    members = [saved(tmp_path, f"beir-cqadupstack-{name}")["metrics"] for name in ("android", "tex")]
    assert members[0]["nDCG@10"] != members[1]["nDCG@10"]
    found = saved(tmp_path, "beir-two")
    for measure in ("nDCG@10", "MRR@10"):
        mean = (members[0][measure] + members[1][measure]) / 2
        assert found["metrics"][measure] == score.report.metrics[measure] == pytest.approx(mean)
        low, high = found["intervals"][measure]
        assert low < mean < high
    assert found["settings"]["member_metrics"]["beir/cqadupstack/tex"] == members[1]
    lines = (tmp_path / "out" / "beir-two.per-query.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(lines) == 2 * 6
    assert not (tmp_path / "out" / "beir-two.trec").exists()
    before = (tmp_path / "out" / "beir-two.json").read_bytes()
    assert evaluate_tasks(system(WordEncoder()), ["beir/two"], given)[0].skipped
    assert (tmp_path / "out" / "beir-two.json").read_bytes() == before
    # Killed between the last member and the average: the values are read back from the disk.
    forums()
    encoder = WordEncoder()
    [again] = evaluate_tasks(system(encoder), ["beir/two"], given)
    assert (again.report.metrics, again.report.intervals) == (score.report.metrics, score.report.intervals)
    assert encoder.read == []


def test_the_table_averages_tasks_of_one_family_and_measure_only(tmp_path: Path, forums: Callable[[], None]) -> None:
    write_task(tmp_path / "beir" / "scifact")
    own = write_task(tmp_path / "mine")
    names = ["beir/scifact", "beir/two", "beir/cqadupstack/tex", str(own)]
    scores = evaluate_tasks(system(WordEncoder()), names, options(tmp_path))
    value = {score.task.name: score.report.metrics["nDCG@10"] for score in scores}
    # A member counts through its average alone, and one folder of one's own is no average.
    expected = (value["beir/scifact"] + value["beir/two"]) / 2
    assert averages(scores) == {("beir", "nDCG@10"): (2, pytest.approx(expected))}
    table = task_table(scores)
    cells = [str(cell) for cell in table.columns[0].cells]
    assert cells == [*(score.task.name for score in scores), "average of 2 beir tasks"]


# ---------------------------------------------------------------------------------------------------- self-retrieval


def test_arguanas_queries_do_not_find_themselves(tmp_path: Path) -> None:
    passages = {"d1": "river stone", "d2": "river bridge", "d3": "castle"}
    write_task(tmp_path / "arguana", passages, {"d1": "river stone"}, {"d1": {"d2": 1}})
    [score] = evaluate_tasks(system(WordEncoder()), ["beir/arguana"], options(tmp_path))
    assert score.report.metrics["MRR@10"] == 1.0
    assert set(read_run(tmp_path / "out" / "beir-arguana.trec").results["d1"]) == {"d2", "d3"}
    # Elsewhere an id in common is a coincidence, and with its own passage in the way the query does worse.
    other = EvaluationOptions(tmp_path / "with", tmp_path, exclude_same_id=False)
    assert evaluate_tasks(system(WordEncoder()), ["beir/arguana"], other)[0].report.metrics["MRR@10"] == 0.5
    [bm25] = evaluate_tasks(system(name="bm25"), ["beir/arguana"], EvaluationOptions(tmp_path / "bm25", tmp_path))
    assert bm25.report.metrics["MRR@10"] == 1.0


def test_a_folder_of_ones_own_leaves_queries_out_that_are_passages_themselves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passages = {"1": "river stone", "2": "river bridge"}
    folder = write_task(tmp_path / "mine", passages, {"1": "river stone"}, {"1": {"2": 1}})
    [score] = evaluate_tasks(system(WordEncoder()), [str(folder)], options(tmp_path))
    assert score.report.settings["excluded_same_id"] is True
    assert score.report.metrics["MRR@10"] == 1.0
    assert "1 queries are passages of the corpus themselves" in caplog.text
    # The same id with another text is another thing.
    write_task(folder, passages, {"1": "bridge"}, {"1": {"2": 1}})
    given = EvaluationOptions(tmp_path / "other", tmp_path)
    assert evaluate_tasks(system(WordEncoder()), [str(folder)], given)[0].report.settings["excluded_same_id"] is False


def test_a_query_that_should_find_what_is_left_out_is_refused(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mine", {"1": "river", "2": "stone"}, {"1": "river"}, {"1": {"1": 1}})
    with pytest.raises(
        EvaluationError, match="mine/test: the passage '1' is judged relevant for the query of the same"
    ):
        evaluate_tasks(system(WordEncoder()), [str(folder)], options(tmp_path))
    given = options(tmp_path, exclude_same_id=False)
    assert evaluate_tasks(system(WordEncoder()), [str(folder)], given)[0].report.metrics["MRR@10"] == 1.0


# --------------------------------------------------------------------------------------------------------- bad input


def refused(tmp_path: Path, names: list[str], error: type[Exception], match: str, **changes: Any) -> WordEncoder:
    """Evaluate what must fail before anything is encoded or written."""
    encoder = WordEncoder()
    with pytest.raises(error, match=match) as told:
        evaluate_tasks(system(encoder), names, options(tmp_path, **changes))
    assert "\n" not in str(told.value)
    assert encoder.read == []
    assert not (tmp_path / "out").exists()
    return encoder


def test_every_task_is_checked_before_the_first_is_encoded(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    faulty = write_task(tmp_path / "faulty")
    names = ["beir/scifact", str(faulty)]
    (faulty / "corpus.jsonl").write_text('{"_id": "d1", "text": "x"}\n{"text": "no id"}\n', encoding="utf-8")
    refused(tmp_path, names, DataError, r'corpus\.jsonl:2 has no "_id"')
    write_task(faulty, qrels={"q1": {"d1": 1, "gone": 1}})
    refused(tmp_path, names, EvaluationError, r"1 passage \('gone'\) not in the corpus")
    write_task(faulty, qrels={"q9": {"d1": 1}})
    refused(tmp_path, names, DataError, r"judges 1 query \('q9'\) that the query file lacks")
    write_task(faulty, passages={**PASSAGES, "two words": "x"})
    refused(tmp_path, names, RunFormatError, "the passage 'two words' is empty or not one word")
    refused(tmp_path, ["beir/scifact", "beir/scfact"], ConfigError, "did you mean 'beir/scifact'")
    refused(tmp_path, ["beir/scifact"], EvaluationError, r"no measure 'nDGC@10'", measures=("nDGC@10",))
    refused(tmp_path, [], ConfigError, "no task to evaluate")


def test_two_folders_of_one_name_do_not_write_over_each_other(tmp_path: Path) -> None:
    names = [str(write_task(tmp_path / place / "mine")) for place in ("a", "b")]
    refused(tmp_path, names, ConfigError, r"two tasks would be written to mine-test\.json")


def test_a_published_set_may_have_lost_few_passages_and_not_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passages = {f"p{number}": "a river" for number in range(39)}
    judged = {"q1": {**dict.fromkeys(passages, 1), "lost": 1}}
    write_task(tmp_path / "scifact", passages, QUERIES, judged)
    [score] = evaluate_tasks(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    assert "beir/scifact: 1 judged passages are not in its corpus" in caplog.messages
    assert score.report.settings["lost_passages"] == 1
    write_task(tmp_path / "scifact", {"p0": "a river"}, QUERIES, judged)
    with pytest.raises(EvaluationError, match=r"39 passages .* not in the corpus"):
        evaluate_tasks(system(WordEncoder()), ["beir/scifact"], EvaluationOptions(tmp_path / "other", tmp_path))


def test_vectors_that_are_not_finite_are_refused_and_nothing_counts_as_finished(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    with pytest.raises(StoreError, match="the vector of passage 'd1' is not finite"):
        evaluate_tasks(system(WordEncoder(fault=np.nan)), ["beir/scifact"], options(tmp_path))

    class FaultyQueries(WordEncoder):
        def encode_queries(self, queries: Sequence[Query] | Sequence[str], /) -> npt.NDArray[np.float32]:
            return super().encode_queries(queries) * np.float32(np.nan)

    for windows in (None, "maxp"):
        given: Any = {"windows": windows}
        with pytest.raises(StoreError, match="the vector of query 1 of 3 is not finite"):
            evaluate_tasks(system(FaultyQueries()), ["beir/scifact"], options(tmp_path, **given))
        assert not (tmp_path / "out" / "beir-scifact.json").exists()


def test_a_name_that_a_run_cannot_hold_is_refused_at_once(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    with pytest.raises(RunFormatError, match="--name: the name of the system 'my model' is empty or not one word"):
        evaluate_tasks(system(WordEncoder(), "my model"), ["beir/scifact"], options(tmp_path))
