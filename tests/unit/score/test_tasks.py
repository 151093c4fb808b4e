import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from llama2vec.errors import ConfigError, CorpusFormatError
from llama2vec.records import Query
from llama2vec.score.metrics import DEFAULT_METRICS, metric_cutoffs
from llama2vec.score.settings import ScoringSettings
from llama2vec.score.tasks import (
    TASKS,
    Task,
    check_scoring,
    find_task,
    locate,
    metrics_and_depth,
    naming_places,
    read_retrieval,
)

BEIR = (
    *("trec-covid", "nfcorpus", "nq", "hotpotqa", "fiqa", "arguana", "webis-touche2020", "cqadupstack", "quora"),
    *("dbpedia-entity", "scidocs", "fever", "climate-fever", "scifact"),
)


def write_folder(folder: Path, split: str = "test", passages: tuple[str, ...] = ("d1",)) -> Path:
    (folder / "qrels").mkdir(parents=True)
    rows = [json.dumps({"_id": name, "text": f"text of {name}"}) for name in passages]
    (folder / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "x"}\n', encoding="utf-8")
    (folder / "qrels" / f"{split}.tsv").write_text(f"q1\t{passages[0]}\t1\n", encoding="utf-8")
    return folder


def test_every_public_beir_set_is_a_task() -> None:
    assert {f"beir/{name}" for name in BEIR} <= TASKS.keys()
    assert all(TASKS[f"beir/{name}"].metrics[0] == "nDCG@10" for name in BEIR)
    assert len(TASKS["beir/cqadupstack"].members) == 12
    assert all(member in TASKS for task in TASKS.values() for member in task.members)


def test_only_arguana_leaves_out_a_querys_own_passage() -> None:
    assert [name for name, task in TASKS.items() if task.exclude_same_id] == ["beir/arguana"]


def test_every_measure_of_every_task_can_be_computed() -> None:
    for task in TASKS.values():
        if task.kind == "retrieval":
            metric_cutoffs(task.metrics)
    assert find_task("ir:any").metrics == DEFAULT_METRICS


def test_trec_counts_related_passages_as_not_relevant_and_documents_of_grade_one_as_relevant() -> None:
    assert TASKS["trec-dl/2019"].metrics == ("nDCG@10", "AP(rel=2)", "R(rel=2)@1000")
    assert TASKS["trec-dl/2020/document"].metrics == ("nDCG@10", "AP", "R@100")
    assert TASKS["msmarco/passage/dev"].metrics == ("MRR@10", "R@1000")
    assert (TASKS["msmarco/document/dev"].metrics[0], TASKS["msmarco/document/dev"].long_documents) == (
        "MRR@100",
        True,
    )
    assert (TASKS["sts/stsb"].metrics[0], TASKS["sts/lcqmc"].metrics[0]) == ("spearman", "pearson")


def test_every_ir_datasets_id_is_registered_and_has_judgments() -> None:
    import ir_datasets

    ids = [task.remote.removeprefix("ir:") for task in TASKS.values() if task.remote.startswith("ir:")]
    assert len(ids) == 14 - 1 + 12 + 1 + 6
    for ir_id in ids:
        dataset = ir_datasets.load(ir_id)
        assert (ir_id, dataset.has_docs(), dataset.has_queries(), dataset.has_qrels()) == (ir_id, True, True, True)


def test_no_two_tasks_share_a_file_name() -> None:
    assert len({task.stem for task in TASKS.values()}) == len(TASKS)


@pytest.mark.parametrize(
    ("name", "near"),
    [("beir/scfact", "beir/scifact"), ("msmarco/pasage/dev", "msmarco/passage/dev"), ("sts/stbs", "sts/stsb")],
)
def test_a_name_with_a_typo_is_answered_with_the_nearest_one(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown task or folder '{name}'; did you mean '{near}'"):
        find_task(name)


def test_a_name_that_is_like_none_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"choose from .*beir/scifact.*msmarco/passage/dev.*sts/bq.*BEIR folder"):
        find_task("xyz")


def test_a_folder_is_a_task_of_its_test_split_or_of_the_named_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", "dev")
    task = find_task(f"{folder}:dev")
    assert (task.name, task.split, task.exclude_same_id) == ("mine/dev", "dev", None)
    assert read_retrieval(task, locate(task, tmp_path / "nowhere")).qrels == {"q1": {"d1": 1}}
    test = find_task(str(folder))
    assert test.name == "mine/test"
    with pytest.raises(CorpusFormatError, match="has no split 'test'; choose from dev"):
        read_retrieval(test, locate(test, tmp_path))


def test_a_file_of_sentence_pairs_and_a_hub_dataset_are_tasks(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("", encoding="utf-8")
    task = find_task(str(file))
    assert (task.name, task.kind, locate(task, "data")) == ("sts/pairs", "similarity", str(file))
    assert find_task("hf:mteb/x:dev").kind == "similarity"
    assert find_task("hf:mteb/x:dev").stem == "hf-mteb-x-dev"
    with pytest.raises(ConfigError, match=r"gone\.tsv: no such file"):
        find_task("gone.tsv")


def test_a_named_task_is_read_from_the_first_place_below_the_root_that_has_its_split(tmp_path: Path) -> None:
    task = TASKS["trec-dl/2019"]
    assert locate(task, tmp_path) == "ir:msmarco-passage/trec-dl-2019/judged"
    write_folder(tmp_path / "msmarco", "dl19")
    assert locate(task, tmp_path) == str(tmp_path / "msmarco")
    # A folder without the split is passed over.
    write_folder(tmp_path / "msmarco-passage", "dev")
    assert locate(task, tmp_path) == str(tmp_path / "msmarco")
    assert locate(TASKS["msmarco/passage/dev"], tmp_path) == str(tmp_path / "msmarco-passage")
    assert read_retrieval(task, locate(task, tmp_path)).name == "trec-dl/2019"


class Row(NamedTuple):
    query_id: str
    text: str = ""
    doc_id: str = ""
    relevance: int = 0


@pytest.fixture
def fake_ir_datasets(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts a data set in the place of every ir_datasets id."""

    def install(parts: tuple[str, ...] = ("docs", "queries", "qrels"), fault: Exception | None = None) -> None:
        class Dataset:
            def has_docs(self) -> bool:
                return "docs" in parts

            def has_queries(self) -> bool:
                return "queries" in parts

            def has_qrels(self) -> bool:
                return "qrels" in parts

            def queries_iter(self) -> Iterator[Row]:
                return iter([Row("q1", "one"), Row("q2", "two"), Row("unjudged", "three")])

            def qrels_iter(self) -> Iterator[Row]:
                if fault:
                    raise fault
                return iter([Row("q1", doc_id="a", relevance=3), Row("q2", doc_id="a"), Row("q1", doc_id="b")])

        module: Any = ModuleType("ir_datasets")
        module.load = lambda _: Dataset()
        module.docs_parent_id = lambda ir_id: ir_id.partition("/")[0]
        monkeypatch.setitem(sys.modules, "ir_datasets", module)

    return install


def test_a_task_without_a_folder_is_read_from_ir_datasets(
    fake_ir_datasets: Callable[..., None], tmp_path: Path
) -> None:
    fake_ir_datasets()
    task = TASKS["trec-dl/2019"]
    data = read_retrieval(task, locate(task, tmp_path))
    assert data.queries == [Query("q1", "one"), Query("q2", "two")]
    assert data.qrels == {"q1": {"a": 3, "b": 0}, "q2": {"a": 0}}
    # Tasks over one corpus name it alike, so that it is encoded once.
    assert data.corpus_source == "ir:msmarco-passage"


def test_a_data_set_without_judgments_is_refused(fake_ir_datasets: Callable[..., None]) -> None:
    fake_ir_datasets(parts=("docs",))
    with pytest.raises(CorpusFormatError, match="ir:x has no queries and no qrels"):
        read_retrieval(find_task("ir:x"), "ir:x")


def test_missing_data_is_told_with_where_it_was_looked_for(
    fake_ir_datasets: Callable[..., None], tmp_path: Path
) -> None:
    fake_ir_datasets(fault=ConnectionError("no network"))
    task = TASKS["beir/scifact"]
    source = locate(task, tmp_path)
    with pytest.raises(CorpusFormatError) as told, naming_places(task, source, tmp_path):
        read_retrieval(task, source)
    message = str(told.value)
    assert message.startswith(
        f"beir/scifact is not at {tmp_path}/beir/scifact, {tmp_path}/scifact, and ir:beir/scifact"
    )
    assert "(no network)" in message
    assert message.endswith("--data-root")
    assert "\n" not in message


def test_an_error_in_a_folder_that_was_found_stays_as_it_is(tmp_path: Path) -> None:
    task = Task("beir/x", "retrieval", ("nDCG@10",), places=("x",), remote="ir:x")
    with pytest.raises(CorpusFormatError, match=r"^faulty$"), naming_places(task, str(tmp_path / "x"), tmp_path):
        raise CorpusFormatError("faulty")


def test_the_depth_is_enough_for_the_metrics_unless_it_was_given() -> None:
    documents, words = TASKS["msmarco/document/dev"], ScoringSettings(metrics=["R@1000", "AP"])
    assert metrics_and_depth(documents, ScoringSettings()) == (["MRR@100", "R@100"], 100)
    assert metrics_and_depth(documents, words) == (["R@1000", "AP"], 1000)
    assert metrics_and_depth(TASKS["beir/scifact"], ScoringSettings(metrics=["R@5000"]))[1] == 5000
    assert metrics_and_depth(TASKS["beir/scifact"], ScoringSettings(depth=20)) == (["nDCG@10", "MRR@10"], 20)
    few = ScoringSettings(metrics=["R(rel=2)@1000", "nDCG@10", "AP"], depth=5)
    with pytest.raises(
        ConfigError, match=r"depth 5 is less than R\(rel=2\)@1000 and nDCG@10 need; .* R\(rel=2\)@5 and"
    ):
        metrics_and_depth(documents, few)
    with pytest.raises(ConfigError, match="depth 5 is less than"):
        check_scoring(["sts/stsb", "beir/scifact"], few)
    check_scoring(["sts/stsb"], few)
