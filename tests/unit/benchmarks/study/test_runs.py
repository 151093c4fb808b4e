"""The study from start to end with a tiny random model: every cell, killed and resumed, with one set of negatives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from benchmarks.study import run
from benchmarks.study.cells import Arm, Cell, adapted, plan, raw_mean, tuned
from benchmarks.study.command import main, run_cells
from benchmarks.study.models import Models, adapt_config, differing, finetune_config
from benchmarks.study.pairs import training_pairs
from benchmarks.study.protocol import ALL_PAIRS, Protocol, load_protocol
from benchmarks.study.results import Results, read_results, state
from benchmarks.study.sets import sampled_set, score_set
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.data.corpus.passages import read_passages
from llama2vec.errors import ConfigError, DataError, MissingDependencyError
from llama2vec.locks import Lock


@pytest.fixture(autouse=True)
def _without_pictures_and_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing takes longer than these trainings, and loading the peer does, too.
    monkeypatch.setattr("llama2vec.training.loop.draw_losses", lambda *_: None)

    def absent(_: int) -> None:
        raise MissingDependencyError("the peer is not installed")

    monkeypatch.setattr("benchmarks.study.run._minilm", absent)


class Killed(BaseException):
    """What a kill looks like from inside."""


def options(toy_file: Path, toy_data: Path, folder: Path, *more: str) -> list[str]:
    return [
        *("--budget", str(toy_file), "--data", str(toy_data), "--work", str(folder / "work")),
        *("--output", str(folder / "study.json"), *more),
    ]


@pytest.mark.slow
def test_one_command_runs_every_cell_and_a_second_one_nothing(toy_file: Path, toy_data: Path, tmp_path: Path) -> None:
    # One recipe: the other makes seven more cells of the same kinds.
    text = toy_file.read_text(encoding="utf-8")
    toy_file = tmp_path / "toy.toml"
    toy_file.write_text("".join(line for line in text.splitlines(True) if not line.startswith("released")), "utf-8")
    toy = load_protocol(str(toy_file))
    tables, plots = tmp_path / "study.md", tmp_path / "plots"
    main(options(toy_file, toy_data, tmp_path, "--tables", str(tables), "--plots", str(plots)))
    results = read_results(tmp_path / "study.json")
    states = {cell.key: state(results, toy, cell) for cell in plan(toy)}
    assert states.pop("reference=minilm") == "missing"
    assert set(states.values()) == {"done"}
    record = results["cells"]["toy"][Cell(tuned(adapted(toy, "both"))).key]
    assert record["training"].keys() == {"adapt", "finetune"}
    assert len(record["scores"]["one"]["values"]) == len(results["sets"]["toy"]["one"]["queries"]) == 6
    assert record["scores"]["one"]["by"] in results["made_by"]
    # All that is left of the models are adapters and what says how they were made.
    left = {path.name for path in (tmp_path / "work" / "toy").rglob("*.safetensors")}
    assert "adapter_model.safetensors" in left
    assert not {name for name in left if name.startswith("model")}
    assert not list((tmp_path / "work").rglob("checkpoints"))
    text = tables.read_text(encoding="utf-8")
    assert "| raw → labels | EBAE + EBAR → labels | 1 |" in text
    assert "![plots/study-toy-steps.svg](plots/study-toy-steps.svg)" in text
    before = (tmp_path / "study.json").read_bytes()
    main(options(toy_file, toy_data, tmp_path))
    assert (tmp_path / "study.json").read_bytes() == before


@pytest.mark.slow
def test_killed_between_and_within_cells_it_ends_with_the_same_scores(
    toy: Protocol, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = adapted(toy, "both", "released")
    cells = [Cell(Arm("bm25")), Cell(both), Cell(tuned(both))]
    whole = tmp_path / "whole.json"
    run_cells(cells, Models(toy, toy_data, tmp_path / "whole"), whole)

    output, models = tmp_path / "study.json", Models(toy, toy_data, tmp_path / "killed")
    calls = 0

    def killed_at_every_third_set(*arguments: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise Killed
        return score_set(*arguments)

    monkeypatch.setattr(run, "score_set", killed_at_every_third_set)
    seen = []
    for _ in range(3):
        try:
            run_cells(cells, models, output)
        except Killed:
            seen.append([state(read_results(output), toy, cell) for cell in cells])
    assert seen == [["done", "missing", "missing"], ["done", "done", "missing"]]
    assert _values(read_results(output)) == _values(read_results(whole))


def _values(results: Results) -> dict[str, Any]:
    cells = results["cells"]["toy"]
    return {
        key: {name: score.get("values", score.get("spearman")) for name, score in cell["scores"].items()}
        for key, cell in cells.items()
    }


@pytest.mark.slow
def test_a_start_is_adapted_once_and_comes_back_from_its_adapter(
    toy: Protocol, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # New slot tokens: their rows must come back, too.
    both = Cell(adapted(toy, "both", "released"))
    models, output = Models(toy, toy_data, tmp_path / "work"), tmp_path / "study.json"
    vectors = models.encoder(both).encode_queries(["river stone"])
    run_cells([both], models, output)
    folder = models.folder(both)
    assert not (folder / "model.safetensors").exists()
    monkeypatch.setattr("llama2vec.adapt.stage.adapt_model", _never)
    assert (models.encoder(both).encode_queries(["river stone"]) == vectors).all()
    assert (folder / "model.safetensors").exists()
    run_cells([Cell(tuned(both.arm))], models, output)
    assert state(read_results(output), toy, Cell(tuned(both.arm))) == "done"


def _never(*_: object, **__: object) -> None:
    raise AssertionError("this was trained already")


@pytest.mark.slow
def test_an_adapter_that_gives_other_weights_is_not_used(
    toy: Protocol, toy_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models, both = Models(toy, toy_data, tmp_path), Cell(adapted(toy, "both"))
    vectors = models.encoder(both).encode_queries(["river stone"])
    models.tidy(both)
    adapter = models.folder(both) / "adapter" / "adapter_model.safetensors"
    save_file({name: weight + 1 for name, weight in load_file(adapter).items()}, adapter)
    assert (models.encoder(both).encode_queries(["river stone"]) == vectors).all()
    assert "training it again" in caplog.text


def test_a_folder_with_a_model_of_other_settings_is_refused(toy: Protocol, toy_data: Path, tmp_path: Path) -> None:
    both, shorter = Cell(adapted(toy, "both")), Cell(adapted(toy, "both", steps=1))
    models = Models(toy, toy_data, tmp_path)
    models.folder(both).mkdir(parents=True)
    manifest = {"settings": adapt_config(toy, shorter).model_dump()}
    (models.folder(both) / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"optimizer.steps = 1, not 2"):
        models.encoder(both)


def test_kept_models_keep_their_weights_and_a_model_without_an_adapter_does_anyway(
    toy: Protocol, toy_data: Path, tmp_path: Path
) -> None:
    both = Cell(adapted(toy, "both"))
    folder = Models(toy, toy_data, tmp_path).folder(both)
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("manifest.json", "model.safetensors", "llama2vec.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    Models(toy, toy_data, tmp_path, keep=True).tidy(both)
    assert (folder / "checkpoints").is_dir()
    Models(toy, toy_data, tmp_path).tidy(both)
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "checkpoints").exists()
    (folder / "adapter").mkdir()
    Models(toy, toy_data, tmp_path).tidy(both)
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "llama2vec.json", "adapter"}


def test_cells_stop_at_the_limit_and_before_one_that_would_not_fit(
    toy: Protocol, toy_file: Path, toy_data: Path, tmp_path: Path
) -> None:
    main(options(toy_file, toy_data, tmp_path, "--cells", "pooling=mean", "--time", "1.4"))
    results = read_results(tmp_path / "study.json")
    # Three sets at 30 s are 1.5 minutes.
    assert "toy" not in results["cells"]
    main(options(toy_file, toy_data, tmp_path, "--limit", "2", "--time", "3"))
    results = read_results(tmp_path / "study.json")
    assert list(results["cells"]["toy"]) == ["reference=bm25", Cell(raw_mean()).key]
    assert results["budgets"] == {"toy": toy.frozen()}


def test_two_processes_do_not_share_a_work_folder(toy_file: Path, toy_data: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "work" / "toy"
    folder.mkdir(parents=True)
    other = Lock(folder / ".in-use")
    assert other.acquire()
    try:
        with pytest.raises(SystemExit, match=r"^2$"):
            main(options(toy_file, toy_data, tmp_path))
    finally:
        other.release()
    assert "in use by another process" in capsys.readouterr().err
    assert not (tmp_path / "study.json").exists()
    main(options(toy_file, toy_data, tmp_path, "--cells", "reference=bm25"))


def test_data_that_changed_since_the_last_run_are_refused(
    toy_file: Path, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(toy_data, copy)
    main(options(toy_file, copy, tmp_path, "--cells", "reference=bm25"))
    with (copy / "labels.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"query": "new", "pos": ["one"], "neg": []}\n')
    with pytest.raises(SystemExit, match=r"^2$"):
        main(options(toy_file, copy, tmp_path))
    assert "the data labels.jsonl" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- pairs and samples


def test_pairs_are_mined_once_and_fewer_are_among_more(
    toy: Protocol, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = toy.finetuning
    all_pairs = training_pairs("labels", ALL_PAIRS, 0, stage, toy_data, tmp_path)
    assert len(all_pairs) == 20
    assert sum(bool(pair.negatives) for pair in all_pairs) > 15
    monkeypatch.setattr("benchmarks.study.pairs.mine", _never)
    some = training_pairs("labels", 8, 0, stage, toy_data, tmp_path)
    fewer = training_pairs("labels", 5, 0, stage, toy_data, tmp_path)
    assert set(fewer) < set(some) < set(all_pairs)
    # As many of each source: the second one is a BEIR folder, whose queries have ids.
    assert sum(bool(pair.query_id) for pair in some) == 4
    monkeypatch.undo()
    assert training_pairs("labels", ALL_PAIRS, 1, stage, toy_data, tmp_path) != all_pairs
    with pytest.raises(DataError, match="21 pairs were requested, but the sources have 20"):
        training_pairs("labels", 21, 0, stage, toy_data, tmp_path)


def test_a_file_of_pairs_that_was_changed_is_refused(toy: Protocol, toy_data: Path, tmp_path: Path) -> None:
    pairs = training_pairs("corpus", ALL_PAIRS, 0, toy.finetuning, toy_data, tmp_path)
    assert len(pairs) == 12
    assert {pair.positive_ids[0].partition("/")[0] for pair in pairs} == {"one", "two"}
    path = next((tmp_path / "pairs").glob("*.gz"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="or was edited"):
        training_pairs("corpus", ALL_PAIRS, 0, toy.finetuning, toy_data, tmp_path)


def test_a_sample_keeps_its_judgments_and_whole_sets_stay_whole(toy: Protocol, toy_data: Path) -> None:
    sample = sampled_set(toy_data / "two", toy.sets)
    ids = {passage.id for passage in sample.passages}
    assert (len(sample.task.queries), len(ids)) == (6, 10)
    assert all(set(gains) <= ids and gains for gains in sample.task.qrels.values())
    assert sampled_set(toy_data / "two", toy.sets).facts == sample.facts
    everything = toy.sets.model_copy(update={"max_queries": 0, "judged": 0, "extra_passages": 0})
    whole = sampled_set(toy_data / "two", everything)
    assert whole.passages == list(read_passages(toy_data / "two"))
    assert len(whole.task.queries) == 12
    assert whole.facts["fingerprint"] != sample.facts["fingerprint"]
    assert score_set(whole, None, 10)["nDCG@10"] > 0.5


# ------------------------------------------------------------------------------------------------------------ settings


def test_settings_that_move_no_weights_do_not_make_another_model(toy: Protocol) -> None:
    config = adapt_config(toy, Cell(adapted(toy, "both")))
    there = config.model_dump()
    there["model"]["name"], there["text"]["corpus"], there["optimizer"]["save_every"] = "elsewhere", "moved", 99
    assert differing(there, config) is None
    del there["objective"]["token_weights"]
    assert differing(there, config) is None
    there["prompts"]["self_prompt"] = " In short: "
    found = differing(there, config)
    assert found is not None
    assert found[0] == "prompts.self_prompt"
    assert differing({**there, "unheard_of": 1}, AdaptConfig()) is not None


def test_the_cpu_budget_trains_as_its_results_were_made() -> None:
    protocol = load_protocol("cpu")
    config = finetune_config(protocol, Cell(tuned(adapted(protocol, "none"))), "smollm2-135m", 1750)
    assert (config.optimizer.steps, config.optimizer.batch_size, config.optimizer.learning_rate) == (32, 24, 5e-4)
    assert (config.data.query_max_tokens, config.data.passage_max_tokens, config.contrastive.negatives) == (48, 48, 1)
    assert (config.encoder.query_prompt, config.encoder.passage_prompt, config.encoder.layers) == ("self", "self", 8)
    stage = protocol.finetuning
    assert stage.pairs_per_source * len(stage.sources) == stage.corpus_pairs * len(stage.corpus_sets) == 1750
