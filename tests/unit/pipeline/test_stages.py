"""The work of single stages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import encoder_for
from pair_models import save_cross_encoder

from llama2vec.config import load_config
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.examples.labeled import read_examples
from llama2vec.errors import ConfigError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.mine import mining as mining_module
from llama2vec.model.encoder import Encoder
from llama2vec.pipeline import stages
from llama2vec.pipeline.estimates import estimate_run
from llama2vec.pipeline.plan import Input, plan_run
from llama2vec.pipeline.settings import RunConfig
from llama2vec.pipeline.stages import _reusable_stores, load_encoder, work
from llama2vec.retrieve.store import writer
from llama2vec.retrieve.store.reader import VectorStore


def config_of(llama_folder: Path, corpus_file: Path, *overrides: str) -> RunConfig:
    base = [f"model.name={llama_folder}", "model.device=cpu", "model.dtype=float32", f"corpus={corpus_file}"]
    return load_config(RunConfig, None, [*base, *overrides])


def test_pairs_are_written_one_file_per_source(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    labeled = tmp_path / "my pairs.v2.jsonl"
    labeled.write_text('{"query": "q", "pos": ["a"]}\n{"query": "r", "pos": ["b"]}\n', encoding="utf-8")
    sources = f'pairs.sources=[{{source="{labeled}", limit=1}}]'
    config = config_of(llama_folder, corpus_file, sources, "pairs.from_corpus=true")
    plan = plan_run(config, tmp_path / "run")
    work(plan, plan.stages[0])
    folder = plan.folder(plan.stages[0])
    assert sorted(path.name for path in folder.iterdir()) == ["01-my-pairs.jsonl", "corpus.jsonl"]
    assert [one.query for one in read_examples(folder / "01-my-pairs.jsonl")] == ["q"]
    assert len(list(read_examples(folder / "corpus.jsonl"))) > 20


def test_the_llm_of_a_run_writes_questions_for_its_corpus(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    loose = ["prompt='{passage}'", "round_trip=0", "min_words=1", "max_words=999", "passages=6", "questions=4"]
    loose += ["question_max_tokens=60", "temperature=2", "passage_min_words=1", "top_p=1.0"]
    config = config_of(llama_folder, corpus_file, *(f"pairs.generated.{one}" for one in loose))
    plan = plan_run(config, tmp_path / "run")
    (stage,) = plan.stages
    assert stage.input("writer").fingerprint != stage.input("corpus").fingerprint
    work(plan, stage)
    folder = plan.folder(stage)
    names = sorted(path.name for path in folder.iterdir())
    assert [names[0], names[2]] == ["generated.jsonl", "generated.jsonl.report.json"]
    assert names[1].startswith("generated.jsonl.questions-")
    passages = {one.id: one.full_text for one in read_passages(corpus_file)}
    found = list(read_examples(folder / "generated.jsonl"))
    assert found
    assert all(passages[one.positive_ids[0]] == one.positives[0] for one in found)
    estimate = estimate_run(plan, plan.stages, 1e12)
    assert estimate.stages["pairs"].seconds > 0
    assert "4 questions for each of 6 passages" in "\n".join(estimate.assumptions)


def test_an_encoder_does_not_write(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(str(llama_folder), device="cpu", dtype="float32")
    encoder.save(tmp_path / "encoder")
    config = config_of(tmp_path / "encoder", corpus_file, "pairs.generated=true")
    with pytest.raises(ConfigError, match=r"is an encoder and cannot write; name an LLM in pairs\.generated\.model"):
        plan_run(config, tmp_path / "run")
    config = config_of(tmp_path / "encoder", corpus_file, f"pairs.generated.model={llama_folder}")
    assert plan_run(config, tmp_path / "run").stages[0].input("writer").where == str(llama_folder)


def test_an_untrained_model_is_loaded_with_the_wording_of_the_recipe(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    config = config_of(llama_folder, corpus_file, "prompts=released", "encoder.passage_max_tokens=33", "encode=true")
    plan = plan_run(config, tmp_path / "run")
    encoder = load_encoder(plan, Input("model", str(llama_folder)))
    assert encoder.contract.prompts == config.prompts
    assert encoder.contract.encoder.passage_max_tokens == 33


def test_encode_names_the_corpus_by_its_content(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    plan = plan_run(config_of(llama_folder, corpus_file, "encode.shard_size=7"), tmp_path / "run")
    work(plan, plan.stages[0])
    store = VectorStore.open(tmp_path / "run" / "store")
    assert len(store) == 24
    assert store.source["fingerprint"] == plan.stages[0].input("corpus").fingerprint


def test_only_new_texts_are_encoded_where_only_the_corpus_changed(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(corpus_file.read_bytes())
    first = plan_run(config_of(llama_folder, corpus, "encode=true"), tmp_path / "run")
    work(first, first.stages[0])
    before = VectorStore.open(tmp_path / "run" / "store").vectors(range(24))
    rows = corpus.read_text(encoding="utf-8").splitlines(keepends=True)
    corpus.write_text("".join([*rows[1:], '{"_id": "new", "text": "A copper lantern."}\n']), encoding="utf-8")
    plan = plan_run(config_of(llama_folder, corpus, "encode=true"), tmp_path / "run")
    with caplog.at_level(logging.INFO):
        work(plan, plan.stages[0], overwrite=True)
    store = VectorStore.open(tmp_path / "run" / "store")
    assert f"{store.path}: took 23 of 24 vectors from the store before" in caplog.messages
    np.testing.assert_array_equal(store.vectors(range(23)), before[1:])


@pytest.mark.parametrize(
    ("setting", "dtype", "exact"), [("half", "float16", 0), ("int8", "int8", 0), ("", "float32", 1)]
)
def test_rounded_vectors_are_stored_and_not_scored(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, setting: str, dtype: str, exact: int
) -> None:
    chosen = f"encode.{setting}=true" if setting else "encode=true"
    plan = plan_run(config_of(llama_folder, corpus_file, chosen), tmp_path / "run")
    work(plan, plan.stages[0])
    assert VectorStore.open(tmp_path / "run" / "store").dtype == dtype
    assert len(_reusable_stores(plan)) == exact


@pytest.mark.parametrize(
    ("choices", "layers"),
    [
        (["model.layers=3", "adapt.encoder.drop_layers=1"], {"adapted": 2, "finetuned": 2}),
        (["model.layers=3", "finetune.model.layers=1"], {"adapted": 3, "finetuned": 1}),
        (["adapt.model.layers=3", "finetune.model.layers=2"], {"adapted": 3, "finetuned": 2}),
    ],
)
def test_every_stage_reads_the_layers_that_the_training_before_it_has_left(
    choices: list[str], layers: dict[str, int], save_model: Callable[..., Path], corpus_file: Path, tmp_path: Path
) -> None:
    training = [f"{stage}.optimizer.{one}" for stage in ("adapt", "finetune") for one in ("steps=1", "batch_size=2")]
    stages = ["adapt.encoder.layers=1", "pairs.from_corpus=true", "mine.negatives=2", "encode=true", "finetune={}"]
    llm = save_model(tmp_path / "llm", num_hidden_layers=4)
    plan = plan_run(config_of(llm, corpus_file, *stages, *training, *choices), tmp_path / "run")
    for stage in plan.stages:
        work(plan, stage)
    for folder, count in layers.items():
        content = json.loads((tmp_path / "run" / folder / "config.json").read_text(encoding="utf-8"))
        assert content["num_hidden_layers"] == count
    assert len(VectorStore.open(tmp_path / "run" / "store")) == 24


def test_a_fine_tuning_keeps_all_the_layers_that_the_adaptation_has_left(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[FinetuneConfig] = []
    monkeypatch.setattr("llama2vec.pipeline.stages.finetune_model", lambda config, *_, **__: asked.append(config))
    steps = [f"{name}.optimizer.steps=1" for name in ("adapt", "finetune")]
    config = config_of(llama_folder, corpus_file, "pairs.from_corpus=true", "model.layers=3", *steps)
    plan = plan_run(config, tmp_path / "run")
    stage = next(one for one in plan.stages if one.kind == "finetune")
    work(plan, stage)
    assert asked[0].model.layers == 0


@pytest.mark.parametrize("kind", ["exact", "faiss-flat"])
def test_index_is_built_over_the_store(llama_folder: Path, corpus_file: Path, tmp_path: Path, kind: str) -> None:
    plan = plan_run(config_of(llama_folder, corpus_file, "encode=true", f"index.kind={kind}"), tmp_path / "run")
    for stage in plan.stages:
        work(plan, stage)
    assert (tmp_path / "run" / "index" / "index.json").is_file()


def test_a_further_process_encodes_what_is_mined_and_the_first_one_mines(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = encoder_for(llama_folder).save(tmp_path / "start")
    config = config_of(start, corpus_file, "pairs.from_corpus=true", "mine.bm25=false", "mine.negatives=1")
    plan = plan_run(config, tmp_path / "run")
    pairs, mining = plan.stages
    work(plan, pairs)
    monkeypatch.setattr("llama2vec.pipeline.stages.process_count", lambda: 2)
    monkeypatch.setattr("llama2vec.pipeline.stages.process_rank", lambda: 1)
    work(plan, mining)
    (store,) = plan.folder(mining).iterdir()
    assert len(VectorStore.open(store)) == len(list(read_passages(corpus_file)))
    monkeypatch.setattr("llama2vec.pipeline.stages.process_rank", lambda: 0)
    work(plan, mining)
    assert sorted(path.name for path in plan.folder(mining).iterdir()) == ["corpus.jsonl", "corpus.jsonl.report.json"]


def two_sources(tmp_path: Path) -> str:
    """Write two files of labeled queries; return the setting that names them."""
    files = [tmp_path / f"{name}.jsonl" for name in ("one", "two")]
    for file in files:
        file.write_text('{"query": "the river", "pos": ["A river is wide."]}\n', encoding="utf-8")
    return f"pairs.sources={json.dumps(list(map(str, files)))}"


def test_files_that_are_mined_from_one_corpus_share_its_vectors(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = encoder_for(llama_folder).save(tmp_path / "start")
    plan = plan_run(config_of(start, corpus_file, two_sources(tmp_path), "mine.bm25=false"), tmp_path / "run")
    pairs, mining = plan.stages
    work(plan, pairs)
    stores: list[tuple[str, bool]] = []
    write = writer.write_store

    def counting(passages: Any, encoder: Any, folder: Path, **options: Any) -> Any:
        stores.append((folder.name, folder.exists()))
        return write(passages, encoder, folder, **options)

    monkeypatch.setattr(mining_module, "write_store", counting)
    work(plan, mining)
    (first, was_there), again = stores
    assert (was_there, again) == (False, (first, True))
    names = ["01-one.jsonl", "01-one.jsonl.report.json", "02-two.jsonl", "02-two.jsonl.report.json"]
    assert sorted(path.name for path in plan.folder(mining).iterdir()) == names


@pytest.mark.parametrize("rank", [0, 1])
def test_no_process_waits_for_another_that_mines(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    start = encoder_for(llama_folder).save(tmp_path / "start")
    plan = plan_run(config_of(start, corpus_file, two_sources(tmp_path), "mine.bm25=false"), tmp_path / "run")
    pairs, mining = plan.stages
    work(plan, pairs)
    events: list[str] = []
    mine = mining_module.mine_to_file

    def waits(ask: Callable[[], Any]) -> Any:
        events.append("waits")
        return ask()

    def mines(*arguments: Any, **options: Any) -> Any:
        events.append("mines")
        return mine(*arguments, **options)

    monkeypatch.setattr(stages, "process_count", lambda: 2)
    monkeypatch.setattr(stages, "process_rank", lambda: rank)
    monkeypatch.setattr(stages, "on_first_process", waits)
    monkeypatch.setattr(stages, "mine_to_file", mines)
    work(plan, mining)
    assert events == ["waits"] * 3 + ([] if rank else ["mines"] * 2)


def test_a_limit_takes_pairs_from_all_over_the_corpus_and_says_so(
    llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = [
        {"_id": f"p{number}", "text": f"The stone {number} lies at the river. " * (40 if number == 1 else 3)}
        for number in range(20)
    ]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def run(limit: int) -> list[str]:
        settings = [f"pairs.from_corpus.limit={limit}", "encoder.passage_max_tokens=99"]
        plan = plan_run(config_of(llama_folder, corpus, *settings), tmp_path / f"run-{limit}")
        with caplog.at_level(logging.INFO):
            work(plan, plan.stages[0])
        return [one.positive_ids[0] for one in read_examples(plan.folder(plan.stages[0]) / "corpus.jsonl")]

    assert dict.fromkeys(run(4)) == dict.fromkeys(["p0", "p5", "p10", "p15"])
    assert f"pairs from 4 of 20 passages of {corpus}, spread evenly" in caplog.text
    assert "is not learned from" not in caplog.text  # p1 is too long, and gives no pair
    assert len(set(run(0))) == 20
    assert "1 of 20 passages" in caplog.text


@pytest.mark.parametrize("split", ["auto", "never"])
def test_all_stages_agree_on_the_passages_of_documents(
    llama_folder: Path, sentences: list[str], make_tokenizer: Callable[..., Any], tmp_path: Path, split: str
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(2):
        (docs / f"{number}.md").write_text(f"# Guide\n\n## Part\n\n{' '.join(sentences[:30])}\n", encoding="utf-8")
    (docs / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    stages = ["pairs.from_corpus=true", "mine.negatives=1", "encode=true", "index.bm25=true"]
    teacher = save_cross_encoder(make_tokenizer(), tmp_path / "teacher")
    settings = ["passages.tokens=40", f"passages.split={split}", f"mine.teacher={teacher}"]
    config = config_of(llama_folder, docs, *stages, *settings)
    plan = plan_run(config, tmp_path / "run")
    for stage in plan.stages:
        work(plan, stage)
    read = list(read_passages(tmp_path / "run" / "corpus"))
    assert len(read) == 2 if split == "never" else len(read) > 8
    assert "photo.png" in (tmp_path / "run" / "corpus" / "reading.txt").read_text(encoding="utf-8")
    store = VectorStore.open(tmp_path / "run" / "store")
    assert store.passages(range(len(store))) == read
    assert (store.source["corpus"], store.source["folder"]) == (str(docs), str(docs))
    assert bool(store.cut) == (split == "never")
    ids = {name for one in read_examples(tmp_path / "run" / "pairs" / "corpus.jsonl") for name in one.positive_ids}
    assert ids <= {one.id for one in read}
    mined = list(read_examples(tmp_path / "run" / "negatives" / "corpus.jsonl"))
    assert {text for one in mined for text in one.negatives} <= {one.full_text for one in read}
    assert all(len(one.negative_scores) == len(one.negatives) and one.positive_scores for one in mined)
    assert split == "never" or any(one.negatives for one in mined)
    estimate = estimate_run(plan, plan.stages, flops=1e9)
    assert f"{docs}: {len(read)} passages" in "\n".join(estimate.assumptions)


def test_rows_are_read_by_the_fields_that_the_recipe_names_and_cut_ones_are_counted(
    llama_folder: Path, sentences: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tmp_path / "rows.jsonl"
    texts = [" ".join(sentences[at : at + 4]) for at in range(0, 40, 4)] + [" ".join(sentences)]
    lines = [json.dumps({"key": number, "body": text}) for number, text in enumerate(texts)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    settings = ["reading.text_field=body", "reading.id_field=key", "encoder.passage_max_tokens=200"]
    config = config_of(llama_folder, rows, "pairs.from_corpus=true", "mine.negatives=1", "encode=true", *settings)
    plan = plan_run(config, tmp_path / "run")
    for stage in plan.stages:
        work(plan, stage)
    store = VectorStore.open(tmp_path / "run" / "store")
    assert [one.text for one in store.passages(range(len(store)))] == texts
    warning = f"{rows}: the model reads only the beginning of 1 of 11 passages (9.09 %), and the rest of each "
    remedy = "; split them with --set passages.split=always"
    assert [line for line in caplog.messages if "reads only the beginning" in line] == [
        f"{warning}is not learned from{remedy}", f"{warning}is not in its vector{remedy}"
    ]  # fmt: skip


def test_labeled_rows_of_the_corpus_are_read_by_the_fields_that_the_recipe_names(
    llama_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "task"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"key": "p", "body": "The river rises."}\n', encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "The river"}\n', encoding="utf-8")
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp\t1\n", encoding="utf-8")
    named = [f'pairs.sources=["{folder}"]', "reading.id_field=key", "reading.text_field=body"]
    plan = plan_run(config_of(llama_folder, folder, *named), tmp_path / "run")
    (pairs,) = [stage for stage in plan.stages if stage.kind == "pairs"]
    work(plan, pairs)
    (rows,) = plan.folder(pairs).iterdir()
    assert [(one.query, one.positives) for one in read_examples(rows)] == [("The river", ("The river rises.",))]


def test_a_begun_store_goes_on_in_its_number_format_where_the_recipe_names_none(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    Encoder.load(str(llama_folder), device="cpu", dtype="float32").save(tmp_path / "model")
    sets = ["model.dtype=auto", "encode.shard_size=7"]
    plan = plan_run(config_of(tmp_path / "model", corpus_file, *sets), tmp_path / "run")
    settings = plan.config.model
    usual = Encoder.load(str(tmp_path / "model"), settings=settings).dtype
    other = "bfloat16" if usual == "float32" else "float32"
    config = plan.config.model_copy(update={"model": settings.model_copy(update={"dtype": other})})
    work(replace(plan, config=config), plan.stages[0])
    for part in (tmp_path / "run" / "store").glob("shard-00001.*"):
        part.unlink()
    work(plan, plan.stages[0])
    assert VectorStore.open(tmp_path / "run" / "store").compute_dtype == other
