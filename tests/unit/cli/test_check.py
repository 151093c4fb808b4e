import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from running import CommandLine

from llama2vec.model.tokenizer import load_tokenizer

GOOD = {"query": "what hums?", "pos": ["A llama hums when it is content."], "neg": ["A stone does not."]}

Outcome = tuple[int, str, str]


@pytest.fixture
def check(command_line: CommandLine) -> Callable[..., Outcome]:
    """Run ``llama2vec check``; return exit code, stdout and stderr."""

    def run(*arguments: object) -> Outcome:
        done = command_line("check", *arguments)
        return done.code, done.out, done.err

    return run


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_clean_data_end_with_code_zero(check: Callable[..., Outcome], tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", [GOOD, GOOD])
    code, out, err = check(data)
    assert (code, err) == (0, "")
    assert "Problems: none" in out
    assert out.endswith(f"Checked {data}: 2 rows, no problems\n")


def test_problems_are_all_printed_and_end_with_code_two_and_one_line(
    check: Callable[..., Outcome], tmp_path: Path
) -> None:
    bad = written(tmp_path / "a.jsonl", [{**GOOD, "pos": []}, GOOD, {**GOOD, "query": ""}])
    code, out, err = check(bad, written(tmp_path / "b.jsonl", [GOOD]))
    assert code == 2
    assert f"{bad}:1 has no positive" in out
    assert f"{bad}:3 has an empty query" in out
    assert "b.jsonl (train)" in out
    assert err.splitlines() == [
        f"llama2vec: {bad} has problems in 2 of 3 rows (no positive: 1, empty query: 1); correct or delete these rows"
    ]


def test_the_report_is_written_as_json_and_not_over_another(check: Callable[..., Outcome], tmp_path: Path) -> None:
    data, report = written(tmp_path / "a.jsonl", [GOOD]), tmp_path / "new" / "report.json"
    assert check(data, "--negatives", 2, "--output", report)[0] == 2
    (facts,) = json.loads(report.read_text(encoding="utf-8"))["reports"]
    assert facts["problems"][0]["kind"] == "too few negatives"
    code, out, err = check(data, "--output", report)
    assert (code, out) == (2, "")
    assert "exists already" in err
    assert check(data, "--output", report, "--overwrite")[0] == 0


def test_overwrite_replaces_neither_the_data_nor_a_foreign_file(
    command_line: CommandLine, tmp_path: Path, llama_folder: Path
) -> None:
    data, foreign = written(tmp_path / "a.jsonl", [GOOD]), written(tmp_path / "b.jsonl", [GOOD])
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'model.name = "{llama_folder}"\ndata.sources = ["{data}"]\n', encoding="utf-8")
    kept = {path: path.read_bytes() for path in (data, foreign, recipe, llama_folder / "config.json")}
    command = ["check", "--recipe", recipe, "--overwrite", "--output"]
    assert "is the output itself" in command_line.refused(*command, data)
    assert "is the output itself" in command_line.refused(*command, recipe)
    assert "lies inside the input" in command_line.refused(*command, llama_folder / "config.json")
    assert "does not hold a report of `llama2vec check`" in command_line.refused(*command, foreign)
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_recipe_brings_sources_lengths_and_the_number_of_negatives(
    check: Callable[..., Outcome], tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("weights"))
    data = written(tmp_path / "a.jsonl", [GOOD])
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'model.name = "{llama_folder}"\ndata.sources = ["{data}"]\ndata.query_max_tokens = 3\n'
        'contrastive.negatives = 2\ncontrastive.missing_negatives = "error"\n',
        encoding="utf-8",
    )
    code, out, _ = check("--recipe", recipe)
    assert code == 2
    assert "has 1 of 2 negatives" in out
    assert "100.0% longer than 3" in out
    # The model has positions for no more, as fine-tuning says too.
    assert "0.0% longer than 238" in out
    assert check("--recipe", recipe, "--negatives", 1)[0] == 0


def test_a_saved_encoder_brings_its_own_lengths(
    check: Callable[..., Outcome], tmp_path: Path, llama_folder: Path
) -> None:
    from llama2vec.config import EncoderSettings, ModelSettings
    from llama2vec.model.encoder import Encoder

    settings = ModelSettings(dtype="float32", device="cpu")
    lengths = EncoderSettings(query_max_tokens=4, passage_max_tokens=77)
    Encoder.load(str(llama_folder), settings=settings, encoder=lengths).save(tmp_path / "saved")
    code, out, _ = check(written(tmp_path / "a.jsonl", [GOOD]), "--model", tmp_path / "saved")
    assert code == 0
    assert "longer than 4" in out
    assert "longer than 77" in out


def test_nothing_to_check_and_unknown_models_are_one_line(check: Callable[..., Outcome], tmp_path: Path) -> None:
    assert "nothing to check" in check()[2]
    data = written(tmp_path / "a.jsonl", [GOOD])
    code, out, err = check(data, "--model", tmp_path / "gone.gguf")
    assert (code, out) == (2, "")
    assert "no such model folder or file" in err
    assert "no such file or folder" in check(tmp_path / "gone.jsonl")[2]


def test_a_gguf_file_gives_its_tokenizer_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_folder: Path
) -> None:
    asked: list[dict[str, Any]] = []

    class Tokenizer:
        is_fast = False
        truncation_side = "left"

    def remember(location: str, **options: Any) -> Tokenizer:
        asked.append({"location": location, **options})
        return Tokenizer()

    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", remember)
    monkeypatch.setattr("gguf.GGUFReader", lambda path: SimpleNamespace(fields={}))
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    assert load_tokenizer(str(tmp_path / "tiny.gguf")).truncation_side == "right"
    assert asked == [{"location": str(tmp_path), "gguf_file": "tiny.gguf", "trust_remote_code": False}]
    assert not (tmp_path / "cache").exists()


def test_settings_are_taken_as_fine_tuning_takes_them(
    check: Callable[..., Outcome], command_line: CommandLine, tmp_path: Path, llama_folder: Path
) -> None:
    data = written(tmp_path / "a.jsonl", [GOOD])
    sets = [f"data.sources={data}", f"model.name={llama_folder}", "data.query_max_tokens=3", "contrastive.negatives=2"]
    given = [option for one in sets for option in ("--set", one)]
    code, out, _ = check(*given)
    assert (code, "100.0% longer than 3" in out) == (0, True)
    assert "has 1 of 2 negatives" in check(*given, "--set", "contrastive.missing_negatives=error")[1]
    assert "--model a and --set model.name=" in command_line.refused("check", *given, "--model", "a")


def test_a_split_of_files_is_one_line_and_files_without_scores_are_noted(
    check: Callable[..., Outcome], tmp_path: Path
) -> None:
    plain = written(tmp_path / "a.jsonl", [GOOD])
    scored = written(tmp_path / "b.jsonl", [{**GOOD, "pos_scores": [1.0], "neg_scores": [0.1]}])
    code, _, err = check(plain, scored, "--split", "dev")
    assert (code, err) == (2, f"llama2vec: {plain} is a file, which has no splits; drop the split 'dev'\n")
    code, out, _ = check(plain, scored)
    assert code == 0
    assert f"Worth a look: {plain}: 1 row without scores, which other sources have" in out


def test_one_row_is_told_in_the_singular(check: Callable[..., Outcome], tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", [GOOD])
    assert check(data)[1].endswith(f"Checked {data}: 1 row, no problems\n")
    assert "  1 row, 1 example: 1 positive, 1 negative\n" in check(data)[1]
    assert "has problems in 1 of 1 row (" in check(written(data, [{**GOOD, "pos": []}]))[2]


def test_the_rows_of_a_beir_folder_are_read_by_the_fields_that_are_named(
    check: Callable[..., Outcome], tmp_path: Path
) -> None:
    folder = tmp_path / "task"
    (folder / "qrels").mkdir(parents=True)
    written(folder / "corpus.jsonl", [{"key": "p", "body": "A llama hums when it is content."}])
    written(folder / "queries.jsonl", [{"_id": "q", "text": "what hums?"}])
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp\t1\n", encoding="utf-8")
    code, _, err = check(folder)
    assert code == 2
    assert "name its field (reading.id_field)" in err
    code, out, err = check(folder, "--set", "reading.id_field=key", "--set", "reading.text_field=body")
    assert (code, err) == (0, "")
    assert out.endswith("1 row, no problems\n")
