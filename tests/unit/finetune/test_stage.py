"""What fine-tuning refuses before it loads or writes anything, and what decides its result."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama2vec.config import load_config
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.errors import ConfigError, ExampleFormatError, Llama2VecError, ModelNotFoundError, OutputExistsError
from llama2vec.files import write_json
from llama2vec.finetune.contract import resolve_contract
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.finetune.stage import _plan, check_fine_tuning, finetune_model
from llama2vec.manifest import MANIFEST_FILE

ROW = '{"query": "where", "pos": ["there"], "neg": ["here"]}\n'


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ([], ConfigError, r"data\.sources is empty; name labeled examples"),
        (['data.sources=["nothere.jsonl"]'], ExampleFormatError, r"nothere\.jsonl: no such file or folder"),
        (['model.name="./nothere"'], ModelNotFoundError, "no such model folder"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(
    settings: list[str], error: type[Llama2VecError], message: str, llama_folder: Path, tmp_path: Path
) -> None:
    config = load_config(FinetuneConfig, None, [f"model.name={llama_folder}", *settings])
    with pytest.raises(error, match=message):
        finetune_model(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_examples_of_the_validation_decide_the_result_too(llama_folder: Path, tmp_path: Path) -> None:
    for name in ("rows.jsonl", "held-out.jsonl"):
        (tmp_path / name).write_text(ROW, encoding="utf-8")
    settings = [f"model.name={llama_folder}", f'data.sources=["{tmp_path / "rows.jsonl"}"]']
    config = load_config(FinetuneConfig, None, [*settings, f'validation.source="{tmp_path / "held-out.jsonl"}"'])
    before = _plan(config, resolve_contract(config), None, SteadyInputs())
    assert config.validation.source_split == "train"
    (tmp_path / "held-out.jsonl").write_text(ROW + ROW, encoding="utf-8")
    after = _plan(config, resolve_contract(config), None, SteadyInputs())
    assert {key for key in before if before[key] != after[key]} == {"examples", "hash"}


def test_a_limit_that_is_spread_decides_otherwise_than_the_first_examples_do(
    llama_folder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROW * 4, encoding="utf-8")

    def data(*settings: str) -> dict[str, object]:
        base = [f"model.name={llama_folder}", f'data.sources=["{rows}"]']
        found: dict[str, object] = load_config(FinetuneConfig, None, [*base, *settings]).deciding()["data"]
        return found

    assert data("data.limit=2")["rows"] == "spread over the source"
    assert "rows" not in data()
    # As earlier versions wrote it, so that what they began goes on.
    first = data("data.limit=2", "data.limited_to=first")
    assert first == {name: value for name, value in data("data.limit=2").items() if name != "rows"}


def test_a_check_of_the_output_refuses_what_the_training_would_and_changes_nothing(
    llama_folder: Path, tmp_path: Path
) -> None:
    rows, output = tmp_path / "rows.jsonl", tmp_path / "out"
    rows.write_text('{"query": "a", "pos": ["b"]}\n')
    one, other = (
        load_config(FinetuneConfig, None, [f"model.name={llama_folder}", f"data.sources={rows}", seed])
        for seed in ("optimizer.seed=1", "optimizer.seed=2")
    )
    check_fine_tuning(one, output, overwrite=False)
    assert not output.exists()
    output.mkdir()
    write_json(output / "finetune.json", _plan(one, resolve_contract(one), None, SteadyInputs()))
    write_json(output / MANIFEST_FILE, {})
    before = sorted(output.iterdir())
    check_fine_tuning(one, output, overwrite=False)
    check_fine_tuning(other, output, overwrite=True)
    with pytest.raises(OutputExistsError, match="holds a fine-tuning with other settings"):
        check_fine_tuning(other, output, overwrite=False)
    with pytest.raises(OutputExistsError, match="lies inside the output"):
        check_fine_tuning(one, tmp_path, overwrite=True)
    assert sorted(output.iterdir()) == before
