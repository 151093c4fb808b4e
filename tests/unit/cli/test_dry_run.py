"""``--dry-run`` of single stages: time and memory as in a run, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import CommandLine


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"query": "The river", "pos": ["The river rises."]}) + "\n" * 2, encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8") * 70, encoding="utf-8")
    return path


def test_trainings_and_generation_are_estimated_and_write_nothing(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, rows: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output.jsonl"
    calls = (
        ("adapt", "--corpus", corpus_file, "--set", "optimizer.batch_size=4"),
        ("finetune", "--data", rows, "--set", "optimizer.batch_size=8"),
        ("generate", corpus_file),
    )
    for call in calls:
        done = command_line(*call, "--model", llama_folder, "-o", output, "--dry-run")
        assert done.code == 0, done.err
        assert done.out.startswith(f"Estimate for {output}: ~ ")
        assert "peak memory ~ " in done.out
        assert "- expect them to be right within a factor of" in done.out
        assert not output.exists()


def test_the_time_of_all_seeds_is_told(
    command_line: CommandLine, llama_folder: Path, rows: Path, tmp_path: Path
) -> None:
    call = ("finetune", "--data", rows, "--model", llama_folder, "-o", tmp_path / "out", "--dry-run")
    done = command_line(*call, "--seeds", "1,2,3")
    assert done.code == 0, done.err
    assert " for all 3 seeds, peak memory" in done.out
    assert "70 labeled queries" in done.out
    assert "--seeds x: " in command_line.refused(*call, "--seeds", "x")


def test_every_labeled_source_is_read_by_the_fields_that_are_named(
    command_line: CommandLine, llama_folder: Path, rows: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text('{"_id": "1", "body": "The river is wide."}\n', encoding="utf-8")
        (folder / "queries.jsonl").write_text('{"_id": "q", "body": "which river"}\n', encoding="utf-8")
        (folder / "qrels" / "train.tsv").write_text("q\t1\t1\n", encoding="utf-8")
    data = [word for source in (rows, *folders) for word in ("--data", source)]
    call = ("finetune", *data, "--model", llama_folder, "-o", tmp_path / "out", "--dry-run")
    assert 'has no "text"' in command_line.refused(*call)
    done = command_line(*call, "--set", "reading.text_field=body")
    assert done.code == 0, done.err
    for folder in folders:
        assert f"{folder}: 1 labeled query" in done.out


def test_mining_is_estimated_from_its_inputs_and_writes_nothing(
    command_line: CommandLine, llama_folder: Path, rows: Path, tmp_path: Path
) -> None:
    folder, output, cpu = tmp_path / "beir", tmp_path / "mined" / "out.jsonl", ("--device", "cpu")
    (folder / "qrels").mkdir(parents=True)
    passages = [{"_id": str(number), "body": f"The river {number} is wide."} for number in range(9)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in passages), encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "body": "which river"}\n', encoding="utf-8")
    (folder / "qrels" / "train.tsv").write_text("q\t1\t1\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    call = ("mine", folder, "-o", output, "--dry-run")
    assert 'has no "text"' in command_line.refused(*call)
    named = ("--set", "reading.text_field=body")
    done = command_line(*call, *named)
    assert done.code == 0, done.err
    assert done.out.startswith(f"Estimate for {output}: BM25 alone, whose time is not estimated, peak memory ~ ")
    for line in (f"- {folder}: 1 query with 1 positive and 0 negatives\n", f"- {folder}: 9 passages to search\n"):
        assert line in done.out
    done = command_line(*call, *named, "--model", llama_folder, *cpu)
    assert done.code == 0, done.err
    assert done.out.startswith(f"Estimate for {output}: ~ ")
    assert "reads queries and passages" in done.out
    assert f"- writes {output} and {output}.report.json; until then {output}.store-…" in done.out
    assert "no such file" in command_line.refused("mine", rows, "-o", output, "--corpus", "nowhere.jsonl", "--dry-run")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_the_training_would_refuse_is_one_line(command_line: CommandLine, llama_folder: Path) -> None:
    base = ("--model", llama_folder, "--dry-run")
    assert "data.sources is empty" in command_line.refused("finetune", *base)
    assert "text.corpus is empty" in command_line.refused("adapt", *base)
    assert "no such file or folder" in command_line.refused("finetune", *base, "--data", "nowhere.jsonl")


def test_an_output_that_the_command_would_refuse_is_refused_and_stays(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, rows: Path, tmp_path: Path
) -> None:
    folder, file = tmp_path / "out", tmp_path / "out.jsonl"
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear", encoding="utf-8")
    file.write_text("{}\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    for call in (("adapt", "--corpus", corpus_file, "-o", folder), ("finetune", "--data", rows, "-o", folder),
                 ("generate", corpus_file, "-o", file), ("mine", rows, "-o", file)):  # fmt: skip
        for more in ((), ("--overwrite",)):
            said = command_line.refused(*call, "--model", llama_folder, "--dry-run", *more)
            assert "exists and does not hold" in said
    seeds = ("--seeds", "1,2", "-o", tmp_path / "seeds")
    (tmp_path / "seeds" / "seed-2").mkdir(parents=True)
    (tmp_path / "seeds" / "seed-2" / "letter.txt").write_text("Dear", encoding="utf-8")
    said = command_line.refused("finetune", "--data", rows, "--model", llama_folder, "--dry-run", *seeds)
    assert "seed-2: exists and does not hold" in said
    assert [path for path in sorted(tmp_path.rglob("*")) if "seed" not in str(path)] == before


def test_a_finished_output_of_other_settings_is_refused_without_overwrite(
    command_line: CommandLine, rows: Path, tmp_path: Path
) -> None:
    corpus, output = tmp_path / "corpus.jsonl", tmp_path / "mined.jsonl"
    passages = [{"_id": str(number), "text": f"The river {number} is wide."} for number in range(9)]
    corpus.write_text("".join(json.dumps(one) + "\n" for one in passages), encoding="utf-8")
    call = ("mine", rows, "--corpus", corpus, "-o", output, "--set", "mine.last_rank=8", "--set", "mine.short=keep")
    done = command_line(*call)
    assert done.code == 0, done.err
    assert command_line(*call, "--dry-run").code == 0
    other = (*call, "--set", "mine.negatives=2", "--dry-run")
    assert "holds a file of mined examples with other settings" in command_line.refused(*other)
    assert command_line(*other, "--overwrite").code == 0
