"""``llama2vec adapt``."""

from __future__ import annotations

import json
import re
from pathlib import Path

from running import CommandLine

SETS = ["optimizer.steps=1", "optimizer.batch_size=2", "model.device=cpu", "model.lora.rank=2", "text.min_words=4"]


def test_a_recipe_by_name_is_overridden_by_options_and_ends_with_facts(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    command = ["adapt", "smollm2-cpu", "--model", llama_folder, "--corpus", corpus_file, "-o", tmp_path / "out"]
    command += [part for change in [*SETS, "text.max_words=12"] for part in ("--set", change)]
    found = command_line(*command)
    assert found.code == 0, found.err
    assert re.search(rf"Adapted {llama_folder} \[D=32\] in 1 step, \d+ s; saved to {tmp_path / 'out'}", found.out)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = command_line(*command)
    assert (again.code, again.out.count("\n")) == (0, 1)
    assert f"{tmp_path / 'out'} is already done" in again.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_without_a_corpus_it_says_where_to_name_one(command_line: CommandLine, tmp_path: Path) -> None:
    assert "--corpus" in command_line.refused("adapt", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_documents_is_read_as_set_and_the_table_ends_the_output(
    command_line: CommandLine, llama_folder: Path, sentences: list[str], tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    rows = [json.dumps({"note": "ignored", "body": " ".join(sentences[at : at + 5])}) for at in range(0, 60, 5)]
    (docs / "rows.ndjson").write_text("\n".join(rows), encoding="utf-8")
    (docs / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    command = ["adapt", "--model", llama_folder, "--corpus", docs]
    command += [part for change in [*SETS, "text.max_words=12"] for part in ("--set", change)]
    reading = ["--set", "reading.text_field=body"]
    done = command_line(*command, *reading, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-2] == "read 1 file (12 documents), skipped 1"
    assert "photo.png" in done.out.splitlines()[-1]
    assert "photo.png" not in done.err
    plan = json.loads((tmp_path / "out" / "adapt.json").read_text(encoding="utf-8"))
    assert plan["settings"]["reading"] == {"text_field": "body"}
    assert "already done" in command_line(*command, *reading, "-o", tmp_path / "out").out
    assert "--overwrite" in command_line.refused(*command, "-o", tmp_path / "out")
    assert "title_fields" in command_line.refused(*command, "--set", "reading.title_fields=x", "-o", tmp_path / "no")
