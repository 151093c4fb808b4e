"""A recipe becomes stages: which run, what they read, what decides their result; mistakes show before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from encoders import encoder_for
from pair_models import save_cross_encoder

from llama2vec.config import EncoderSettings, load_config
from llama2vec.errors import ConfigError, ContractError, CorpusFormatError, ExampleFormatError, ModelNotFoundError
from llama2vec.pipeline.plan import RunPlan, mining_corpora, pair_files, plan_run
from llama2vec.pipeline.record import shares_held_out
from llama2vec.pipeline.settings import RunConfig
from llama2vec.pipeline.systems import systems


def configured(*overrides: str) -> RunConfig:
    return load_config(RunConfig, None, overrides)


def names(plan: RunPlan) -> list[str]:
    return [stage.name for stage in plan.stages]


@pytest.fixture
def beir(tmp_path: Path, corpus_rows: list[dict[str, str]]) -> Path:
    folder = tmp_path / "task"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus_rows), encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "The river"}\n', encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tdoc0-000\t1\n", encoding="utf-8")
    return folder


@pytest.fixture
def everything(llama_folder: Path, corpus_file: Path, beir: Path) -> list[str]:
    return [
        f"model.name={llama_folder}", f"corpus={corpus_file}", "adapt=true", "pairs.from_corpus=true", "mine=true",
        "finetune=true", "encode=true", "index=true", f'evaluate.tasks=["{beir}"]',
    ]  # fmt: skip


def test_each_stage_reads_what_the_one_before_it_makes(everything: list[str], tmp_path: Path) -> None:
    plan = plan_run(configured(*everything), tmp_path / "run")
    assert names(plan) == ["pairs", "adapt", "mine", "finetune", "encode", "index", "evaluate"]
    made = {stage.name: {found.name: found.stage for found in stage.inputs if found.stage} for stage in plan.stages}
    assert made == {
        "adapt": {}, "pairs": {}, "mine": {"pairs": "pairs", "model": "adapt"},
        "finetune": {"examples": "mine", "pairs": "pairs", "model": "adapt"}, "encode": {"model": "finetune"},
        "index": {"store": "encode"}, "evaluate": {"adapted": "adapt", "finetuned": "finetune"},
    }  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_further_round_mines_and_trains_with_the_newest_encoder(everything: list[str], tmp_path: Path) -> None:
    plan = plan_run(configured(*everything, "mine.rounds=2"), tmp_path)
    assert names(plan)[2:6] == ["mine", "finetune", "mine-2", "finetune-2"]
    stages = {stage.name: stage for stage in plan.stages}
    assert [stages[name].input("model").stage for name in ("mine-2", "finetune-2", "encode")] == [
        "finetune", "finetune", "finetune-2",
    ]  # fmt: skip
    assert stages["finetune-2"].folder == "finetuned-2"
    assert [stage.name for stage in plan.between("mine", "finetune")] == names(plan)[2:6]
    assert [stage.name for stage in plan.between("mine-2", "mine-2")] == ["mine-2"]


def test_more_rounds_leave_the_first_one_as_it_was(everything: list[str], tmp_path: Path) -> None:
    one, two = (plan_run(configured(*everything, f"mine.rounds={count}"), tmp_path) for count in (1, 2))
    assert [stage for stage in one.stages if stage.kind in ("mine", "finetune")] == list(two.stages[2:4])


def test_only_rounds_that_draw_from_the_pairs_share_what_they_hold_out(everything: list[str], tmp_path: Path) -> None:
    for more, shared in (
        (["mine.rounds=2"], ["finetune", "finetune-2"]),
        ([], []),
        (["mine.rounds=2", "finetune.validation.share=0"], []),
    ):
        plan = plan_run(configured(*everything, *more), tmp_path)
        assert [stage.name for stage in plan.stages if shares_held_out(plan, stage)] == shared


def test_a_raw_model_does_not_mine(everything: list[str], tmp_path: Path) -> None:
    without = [*everything, "adapt=false"]
    mine = next(stage for stage in plan_run(configured(*without), tmp_path).stages if stage.kind == "mine")
    assert mine.find_input("model") is None
    with pytest.raises(ConfigError, match="needs an encoder or BM25: no stage makes an encoder and bm25 is off"):
        plan_run(configured(*without, "mine.bm25=false"), tmp_path)


def test_a_recipe_that_contradicts_the_encoder_it_starts_from_is_refused_before_the_first_stage(
    everything: list[str], llama_folder: Path, tmp_path: Path
) -> None:
    encoder = tmp_path / "encoder"
    encoder_for(llama_folder, settings=EncoderSettings(passage_max_tokens=20)).save(encoder)
    start = [*everything, f"model.name={encoder}", "mine=false"]
    shorter = [*start, "encoder.passage_max_tokens=12"]
    message = f"encoder.passage_max_tokens: {encoder} was made with 20, the recipe says 12"
    with pytest.raises(ContractError, match=message):
        plan_run(configured(*shorter, "adapt=false"), tmp_path / "run")
    # Adaptation writes a contract of its own.
    assert names(plan_run(configured(*shorter), tmp_path / "run"))[:3] == ["pairs", "adapt", "finetune"]
    assert names(plan_run(configured(*start, "adapt=false"), tmp_path / "run"))[:2] == ["pairs", "finetune"]


def test_where_an_input_lies_decides_nothing_and_its_content_does(
    everything: list[str], corpus_file: Path, tmp_path: Path
) -> None:
    def first(corpus: Path) -> tuple[Any, Any]:
        stage = plan_run(configured(*everything, f"corpus={corpus}"), tmp_path).stages[0]
        return stage.settings, stage.input_fingerprints({})

    moved = tmp_path / "elsewhere" / corpus_file.name
    moved.parent.mkdir()
    moved.write_bytes(corpus_file.read_bytes())
    assert first(moved) == first(corpus_file)
    moved.write_text(moved.read_text(encoding="utf-8").replace("doc0", "doc9"), encoding="utf-8")
    assert first(moved) != first(corpus_file)


def test_a_split_of_a_file_is_refused(corpus_file: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "q", "pos": ["a"]}\n', encoding="utf-8")
    config = configured(f'pairs.sources=[{{source = "{rows}", split = "dev"}}]')
    with pytest.raises(ConfigError, match=r"rows\.jsonl is a file, which has no splits; drop the split 'dev'"):
        plan_run(config, tmp_path / "run")


def test_a_limit_of_pairs_decides_otherwise_than_in_earlier_versions(corpus_file: Path, tmp_path: Path) -> None:
    def settings(*more: str) -> Any:
        config = configured(f"corpus={corpus_file}", "pairs.from_corpus=true", *more)
        return plan_run(config, tmp_path / "run").stages[0].settings["from_corpus"]

    assert settings("pairs.from_corpus.limit=3")["passages"] == "spread over the corpus"
    assert "passages" not in settings()


def test_limits_of_texts_and_examples_decide_otherwise_than_in_earlier_versions(
    corpus_file: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "q", "pos": ["a"]}\n', encoding="utf-8")

    def settings(*more: str) -> dict[str, Any]:
        sources = f'pairs.sources=[{{source = "{rows}", limit = 1}}, {{source = "{rows}"}}]'
        config = configured(f"corpus={corpus_file}", sources, "adapt={}", *more)
        return {stage.kind: stage.settings for stage in plan_run(config, tmp_path / "run").stages}

    sources = settings()["pairs"]["sources"]
    assert [one.get("rows") for one in sources] == ["spread over the source", None]
    assert "rows" not in settings()["adapt"]["text"]
    assert settings("adapt.text.limit=3")["adapt"]["text"]["rows"] == "spread over the source"


def test_labeled_sources_keep_files_and_corpora_of_their_own(beir: Path, corpus_file: Path) -> None:
    sources = f'pairs.sources=["{beir}", {{source = "a/b c.jsonl", corpus = "mine.tsv"}}, "x.jsonl"]'
    config = configured(f"corpus={corpus_file}", sources, "pairs.from_corpus=true")
    assert list(pair_files(config)) == ["01-task.jsonl", "02-b-c.jsonl", "03-x.jsonl", "corpus.jsonl"]
    assert list(mining_corpora(config).values()) == [str(beir), "mine.tsv", str(corpus_file), str(corpus_file)]


def test_the_systems_that_are_scored_are_those_that_the_run_makes(everything: list[str], beir: Path) -> None:
    assert systems(configured(*everything)) == ("bm25", "adapted", "finetuned")
    assert systems(configured("corpus=c", "encode=true", f'evaluate.tasks=["{beir}"]')) == ("bm25", "raw")
    with_words = ("corpus=c", "adapt=true", "encode=true", "index.bm25=true")
    assert systems(configured(*with_words, f'evaluate.tasks=["{beir}"]')) == ("bm25", "adapted", "hybrid")
    pairs = beir / "pairs.tsv"
    pairs.write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t0\n", encoding="utf-8")
    assert systems(configured(*with_words, f'evaluate.tasks=["{pairs}"]')) == ("adapted",)
    assert systems(configured("corpus=c", "adapt=true", f'evaluate.tasks=["{pairs}"]')) == ("adapted",)


def test_hybrid_on_sentence_pairs_alone_is_refused_before_the_first_stage(everything: list[str], beir: Path) -> None:
    pairs = beir / "pairs.tsv"
    pairs.write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t0\n", encoding="utf-8")
    config = configured(*everything, f'evaluate={{tasks=["{pairs}"], systems=["hybrid"]}}')
    with pytest.raises(ConfigError, match="hybrid does not score sentence pairs; add a retrieval task or drop it"):
        plan_run(config, beir / "run")


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("corpus=nowhere", CorpusFormatError, "nowhere: no such file or folder"),
        ('pairs.sources=["nowhere.jsonl"]', ExampleFormatError, r"nowhere\.jsonl: no such file or folder"),
        ('evaluate.tasks=["BEIR:dev"]', CorpusFormatError, "has no split 'dev'; choose from test"),
        ('evaluate.tasks=["nowhere"]', ConfigError, "unknown task or folder 'nowhere'"),
        ('evaluate.tasks=["nowhere.tsv"]', ConfigError, r"nowhere\.tsv: no such file"),
        ("finetune.validation.source=nowhere.jsonl", ExampleFormatError, r"nowhere\.jsonl: no such file"),
        ("model.name=./nowhere", ModelNotFoundError, "nowhere: no such model folder or file"),
    ],
)
def test_a_missing_input_of_any_stage_is_named_before_the_first_begins(
    everything: list[str], beir: Path, tmp_path: Path, override: str, error: type[Exception], message: str
) -> None:
    config = configured(*everything, override.replace("BEIR", str(beir)))
    with pytest.raises(error, match=message):
        plan_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_stage_and_a_range_the_wrong_way_round_are_refused(everything: list[str], tmp_path: Path) -> None:
    plan = plan_run(configured(*everything), tmp_path)
    with pytest.raises(ConfigError, match="--from train: this run has no such stage; choose from pairs, adapt"):
        plan.between("train")
    with pytest.raises(ConfigError, match="--from index comes after --until mine"):
        plan.between("index", "mine")


def test_queries_that_choose_the_weights_and_score_them_are_named(
    everything: list[str], beir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (beir / "qrels" / "dev.tsv").write_bytes((beir / "qrels" / "test.tsv").read_bytes())
    source = f"finetune.validation.source={beir}"
    plan_run(configured(*everything, source), tmp_path)
    assert "choose the weights" not in caplog.text
    plan_run(configured(*everything, source, "finetune.validation.split=test"), tmp_path)
    assert "evaluate.tasks: task/test is finetune.validation.source too" in caplog.text


def test_the_language_of_an_evaluation_is_its_own_else_that_of_the_index(everything: list[str], tmp_path: Path) -> None:
    def language(*changes: str) -> object:
        return plan_run(configured(*everything, *changes), tmp_path).stages[-1].settings["language"]

    assert language("index.language=de") == "de"
    assert language("index=false", "evaluate.language=fr") == "fr"
    assert language("index.language=fr", "evaluate.language=fr") == "fr"
    with pytest.raises(ConfigError, match=r"evaluate\.language is fr and index\.language is de"):
        configured(*everything, "index.language=de", "evaluate.language=fr")


@pytest.fixture
def docs(tmp_path: Path, sentences: list[str]) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.md").write_text("# Guide\n\n" + " ".join(sentences), encoding="utf-8")
    return folder


def test_documents_are_read_and_split_once_for_all_stages_but_adaptation(
    everything: list[str], docs: Path, tmp_path: Path
) -> None:
    plan = plan_run(configured(*everything, f"corpus={docs}"), tmp_path / "run")
    assert names(plan) == ["read", "pairs", "adapt", "mine", "finetune", "encode", "index", "evaluate"]
    corpora = {
        stage.name: (found.where, found.stage)
        for stage in plan.stages
        for found in stage.inputs
        if found.name.startswith("corpus")
    }
    made = ("corpus", "read")
    assert corpora == {"read": (str(docs), ""), "adapt": (str(docs), ""), "pairs": made, "mine": made, "encode": made}
    whole = plan_run(configured(*everything, f"corpus={docs}", "passages.split=never"), tmp_path / "run")
    assert names(whole)[0] == "read"


def test_rows_are_split_only_when_the_recipe_says_so(everything: list[str], corpus_file: Path, tmp_path: Path) -> None:
    assert "read" not in names(plan_run(configured(*everything), tmp_path))
    plan = plan_run(configured(*everything, "passages.split=always"), tmp_path)
    assert names(plan)[0] == "read"
    assert plan.stages[0].input("corpus").where == str(corpus_file)


def test_what_decides_the_passages_decides_the_reading(everything: list[str], docs: Path, tmp_path: Path) -> None:
    def settings(*changes: str) -> Any:
        return plan_run(configured(*everything, f"corpus={docs}", *changes), tmp_path).stages[0].settings

    assert settings() == settings()
    for change in ("passages.tokens=40", "encoder.passage_max_tokens=100", "reading.encoding=utf-8"):
        assert settings(change) != settings()


def test_reading_reaches_adaptation_and_rows_whose_fields_are_named(
    everything: list[str], docs: Path, corpus_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    found = configured(*everything, "reading.encoding=cp1252", "adapt.reading.include=['*.md']")
    assert found.adapt is not None
    assert found.adapt.reading.choices == {"encoding": "cp1252", "include": ["*.md"]}
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"_id": row["_id"], "body": row["text"]}) + "\n" for row in corpus_rows))
    plan = plan_run(configured(*everything, f"corpus={rows}", "reading.text_field=body"), tmp_path / "run")
    assert names(plan)[0] == "read"
    assert [stage.input("corpus").stage for stage in plan.stages if stage.name in ("pairs", "encode")] == ["read"] * 2
    # Plans of earlier versions stay those of the same recipe.
    settings = {stage.name: stage.settings for stage in plan_run(configured(*everything), tmp_path / "run").stages}
    assert "reading" not in settings["adapt"]
    assert "reading" not in settings["evaluate"]


def test_the_layers_of_an_llm_that_only_reads_decide_its_vectors(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    def encode(*overrides: str) -> dict[str, Any]:
        chosen = configured(f"model.name={llama_folder}", f"corpus={corpus_file}", "encode=true", *overrides)
        return dict(plan_run(chosen, tmp_path).stages[-1].settings)

    assert encode("model.layers=1") == {**encode(), "layers": 1}
    assert encode("adapt=true", "model.layers=1") == encode("adapt=true")  # Its encoder has them.


def test_a_teacher_is_an_input_of_mining_and_none_leaves_the_plan_as_it_was(
    everything: list[str], make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    def mining(*more: str) -> Any:
        return next(one for one in plan_run(configured(*everything, *more), tmp_path).stages if one.kind == "mine")

    folders = [save_cross_encoder(make_tokenizer(), tmp_path / name) for name in ("one", "two")]
    without, one, two = mining(), *(mining(f"mine.teacher={folder}") for folder in folders)
    assert without.find_input("teacher") is None
    assert not [name for name in without.settings if "teacher" in name]
    assert one.input("teacher").where == str(folders[0])
    assert one.input("teacher").fingerprint == two.input("teacher").fingerprint
    assert one.settings == two.settings == without.settings
    assert mining(f"mine.teacher={folders[0]}", "mine.teacher_share_of_positive=0").settings != one.settings


def test_labeled_rows_of_the_corpus_have_its_fields(llama_folder: Path, beir: Path, tmp_path: Path) -> None:
    base = [f"model.name={llama_folder}", f"corpus={beir}", "finetune=true", f"finetune.validation.source={beir}"]
    base += ["finetune.validation.split=test", f'pairs.sources=[{{source="{beir}/", split="test"}}]']

    def settings(*overrides: str) -> dict[str, Any]:
        plan = plan_run(configured(*base, *overrides), tmp_path / "run")
        return {stage.kind: dict(stage.settings) for stage in plan.stages}

    usual, other = settings(), settings("reading.include=['*.md']")
    assert usual == other
    assert not any("reading" in found for found in usual.values())
    named = settings("reading.title_field=head")
    assert named["pairs"]["reading"] == named["finetune"]["reading"] == {"title_field": "head"}


def test_other_stop_words_under_the_same_name_are_another_fine_tuning(everything: list[str], tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    chosen = [*everything, "finetune.pretext.weight=0.1", f"finetune.pretext.stop_words={words}"]

    def settings() -> object:
        stages = plan_run(configured(*chosen), tmp_path / "run").stages
        return next(stage.settings for stage in stages if stage.kind == "finetune")

    words.write_text("river\n", encoding="utf-8")
    before = settings()
    words.write_text("castle\n", encoding="utf-8")
    assert settings() != before
