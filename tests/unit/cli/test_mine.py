"""`llama2vec mine`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_examples import write_corpus_and_pairs
from pair_models import save_cross_encoder
from running import CommandLine

from llama2vec.data.examples.labeled import read_examples


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return write_corpus_and_pairs(tmp_path)


def test_mining_reports_and_the_same_call_has_nothing_to_do(files: dict[str, Path], command_line: CommandLine) -> None:
    call = ["mine", files["pairs"], "-o", files["output"], "--corpus", files["corpus"], "--set", "mine.negatives=2"]
    done = command_line(*call)
    assert done.code == 0
    assert "removed         6  known_positive" in done.out
    assert f"Mined 12 negatives for 6 of 6 queries to {files['output']}" in done.out
    done = command_line(*call)
    assert (done.code, "already done" in done.out) == (0, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "mine.bm25=false"], "nothing to mine with"),
        (["--set", "mine.first_rank=9", "--set", "mine.last_rank=3"], "first_rank (9) must be at most last_rank (3)"),
        (["--set", "mine.negativs=3"], "did you mean 'mine.negatives'?"),
        (["--corpus", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--store", "nowhere"], "no index at nowhere"),
        (["--split", "dev"], "is a file, which has no splits; drop the split 'dev'"),
        (["--set", "mine.short=error", "--set", "mine.negatives=99"], "of 99 negatives; widen"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], message: str, files: dict[str, Path], command_line: CommandLine
) -> None:
    assert message in command_line.refused("mine", files["pairs"], "-o", files["output"], *options)
    assert not files["output"].parent.exists()


def test_a_saved_encoder_mines_with_and_without_its_store(
    files: dict[str, Path], llama_folder: Path, command_line: CommandLine, tmp_path: Path
) -> None:
    cpu = ["--dtype", "float32", "--device", "cpu"]
    filters = ["mine.max_share_of_positive=0", "mine.near_duplicate=0", "mine.bm25=false"]
    call = ["mine", files["pairs"], "--corpus", files["corpus"], *cpu]
    call += [option for value in filters for option in ("--set", value)]
    done = command_line(*call, "--model", llama_folder, "-o", files["output"])
    assert done.code == 0, done.err
    assert "ranks by model" in done.out
    assert command_line("encode", llama_folder, files["corpus"], "-o", tmp_path / "store", *cpu).code == 0
    again = tmp_path / "again.jsonl"
    done = command_line(*call, "--store", tmp_path / "store", "-o", again)
    assert done.code == 0, done.err
    assert again.read_bytes() == files["output"].read_bytes()


def test_documents_are_split_into_the_passages_that_are_mined(
    files: dict[str, Path], command_line: CommandLine, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    body = " ".join(f"The llama number {number} walks over the bridge." for number in range(60))
    (docs / "guide.md").write_text(f"# Guide\n\n{body}\n", encoding="utf-8")
    call = ["mine", files["pairs"], "-o", files["output"], "--corpus", docs, "--set", "mine.negatives=2"]
    done = command_line(*call, "--set", "passages.tokens=40", "--set", "passages.overlap=0")
    assert done.code == 0, done.err
    ids = {name for one in read_examples(files["output"]) for name in one.negative_ids}
    assert len(ids) > 1
    assert all(name.startswith("guide.md#") for name in ids)
    assert "--overwrite" in command_line.refused(*call, "--set", "passages.tokens=50")


def test_generate_and_mine_split_documents_alike_and_another_splitting_is_named(
    llama_folder: Path, command_line: CommandLine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    body = " ".join(f"The llama number {number} walks over the bridge." for number in range(60))
    (docs / "guide.md").write_text(f"# Guide\n\n{body}\n", encoding="utf-8")
    loose = ["{passage}", "0", "1", "999", "60", "2", "1.0", "1"]
    keys = ["prompt", "round_trip", "min_words", "max_words", "question_max_tokens", "temperature", "top_p"]
    sets = [f"generate.{key}={value}" for key, value in zip([*keys, "passage_min_words"], loose, strict=True)]
    split = ["passages.tokens=40", "passages.overlap=0"]
    options = [part for one in (*sets, *split) for part in ("--set", one)]
    call = ["generate", docs, "-o", tmp_path / "pairs.jsonl", "--model", llama_folder, "--device", "cpu", *options]
    done = command_line(*call)
    assert done.code == 0, done.err
    call = ["mine", tmp_path / "pairs.jsonl", "--corpus", docs, "--set", "mine.negatives=1"]
    call += [part for one in split for part in ("--set", one)]
    done = command_line(*call, "--model", llama_folder, "--device", "cpu", "-o", tmp_path / "mined.jsonl")
    assert done.code == 0, done.err
    assert "not in the corpus" not in done.out
    assert "split otherwise" not in caplog.text
    done = command_line(*call, "-o", tmp_path / "words.jsonl")  # BM25 alone: without a model, words are counted
    assert done.code == 0, done.err
    assert "not in the corpus" in done.out
    assert "split otherwise (passages.tokenizer: " in caplog.text


def test_the_corpus_is_read_as_set_and_the_table_ends_the_output(
    files: dict[str, Path], command_line: CommandLine, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(files["corpus"].read_text(encoding="utf-8").replace('"text"', '"body"'), encoding="utf-8")
    call = ["mine", files["pairs"], "--set", "mine.negatives=2"]
    assert command_line(*call, "-o", files["output"], "--corpus", files["corpus"]).code == 0
    other = tmp_path / "other.jsonl"
    assert "(reading.text_field)" in command_line.refused(*call, "-o", other, "--corpus", renamed)
    done = command_line(*call, "-o", other, "--corpus", renamed, "--set", "reading.text_field=body")
    assert done.code == 0, done.err
    assert other.read_bytes() == files["output"].read_bytes()
    docs = tmp_path / "pages"
    docs.mkdir()
    (docs / "guide.md").write_text("# Guide\n\nA llama walks over the bridge.\n", encoding="utf-8")
    (docs / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    done = command_line(*call, "-o", tmp_path / "third.jsonl", "--corpus", docs)
    assert done.code == 0, done.err
    assert "read 1 file (1 document), skipped 1" in done.out
    assert "photo.png" in done.out.splitlines()[-1]


def test_passages_that_the_model_cuts_are_counted_with_the_remedy(
    files: dict[str, Path],
    llama_folder: Path,
    command_line: CommandLine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = tmp_path / "long.jsonl"
    rows = files["corpus"].read_text(encoding="utf-8")
    long.write_text(f'{rows}{{"_id": "long", "text": "{"A llama hums. " * 300}"}}\n', encoding="utf-8")
    call = ["mine", files["pairs"], "--corpus", long, "--model", llama_folder, "--set", "mine.negatives=1"]
    done = command_line(*call, "-o", files["output"])
    assert done.code == 0, done.err
    warning = f"{long}: the model reads only the beginning of 1 of {rows.count('_id') + 1} passages"
    assert warning in caplog.text
    assert "split them with --set passages.split=always" in caplog.text
    caplog.clear()
    done = command_line(*call, "-o", tmp_path / "split.jsonl", "--set", "passages.split=always")
    assert (done.code, "reads only the beginning" in caplog.text) == (0, False)


def test_queries_that_the_model_cuts_are_counted(
    files: dict[str, Path],
    llama_folder: Path,
    command_line: CommandLine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [json.loads(line) for line in files["pairs"].read_text(encoding="utf-8").splitlines()]
    rows[0]["query"] += " and a river" * 100
    files["pairs"].write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    call = ["mine", files["pairs"], "--corpus", files["corpus"], "--set", "mine.negatives=1", "-o", files["output"]]
    done = command_line(*call, "--model", llama_folder)
    assert done.code == 0, done.err
    warning = f"{files['pairs']}: the model reads only the beginning of 1 of {len(rows)} queries"
    assert [line for line in caplog.messages if line.startswith(warning)], caplog.text
    caplog.clear()
    assert command_line(*call, "--overwrite").code == 0  # BM25 reads them whole.
    assert "reads only the beginning" not in caplog.text


def test_a_teacher_scores_what_is_written_and_a_model_that_cannot_is_one_line(
    files: dict[str, Path], make_tokenizer: Callable[..., Any], llama_folder: Path, command_line: CommandLine,
    tmp_path: Path,
) -> None:  # fmt: skip
    call = ["mine", files["pairs"], "-o", files["output"], "--corpus", files["corpus"], "--device", "cpu"]
    assert "scores no pairs; give a cross-encoder" in command_line.refused(
        *call, "--set", f"mine.teacher={llama_folder}"
    )
    folder = save_cross_encoder(make_tokenizer(), tmp_path / "cross")
    done = command_line(*call, "--teacher", folder, "--set", "mine.negatives=2")
    assert done.code == 0, done.err
    rows = list(read_examples(files["output"]))
    assert all(len(row.negative_scores) == len(row.negatives) for row in rows)
    assert all(len(row.positive_scores) == 1 for row in rows)
