"""``llama2vec distill``: sample queries in, a table out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import CommandLine

from llama2vec.retrieve.search.query_table import QueryTable
from llama2vec.retrieve.store.reader import VectorStore


def test_the_command_draws_queries_from_a_corpus(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    output = tmp_path / "table"
    finished = command_line(
        "distill", llama_folder, "--corpus", corpus_file, "-o", output, "--count", 60, "--dtype", "float32",
        "--device", "cpu",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert finished.out.startswith(f"Saved {output} [")
    again = command_line(
        "distill", llama_folder, "--corpus", corpus_file, "-o", output, "--count", 60, "--dtype", "float32",
        "--device", "cpu",
    )  # fmt: skip
    assert again.out.startswith(f"{output} is already done [")
    assert "the mean cosine to the model's vectors is 0." in finished.out
    assert QueryTable.load(output).facts["texts"] > 30
    for verb in (("encode", output, corpus_file, "-o", tmp_path / "store"), ("explain", output, "-q", "a", "-p", "b")):
        assert "a query table, which only `search` and Retriever.open take" in command_line.refused(*verb)
    message = command_line.refused("distill", llama_folder, "-o", tmp_path / "none")
    assert "give --queries, or --corpus to draw them from" in message


def test_queries_beyond_the_count_are_said(
    llama_folder: Path, tmp_path: Path, command_line: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    queries, options = tmp_path / "queries.tsv", ["--count", 40, "--dtype", "float32", "--device", "cpu"]
    queries.write_text("".join(f"q{number}\triver stone {number} bridge\n" for number in range(43)))
    done = command_line("distill", llama_folder, "--queries", queries, "-o", tmp_path / "table", *options)
    assert done.code == 0, done.err
    assert "--count 40 leaves out the last 3 queries" in caplog.text
    assert "--corpus" not in caplog.text
    assert "fitted to 40 queries" in done.out
    broken = tmp_path / "broken.jsonl"
    broken.write_text("not JSON\n")
    both = ("--queries", queries, "--corpus", broken, "-o", tmp_path / "table")
    assert command_line("distill", llama_folder, *both, *options).code == 0
    assert "--queries fill --count 40, so that none is drawn from --corpus; raise --count" in caplog.text


def test_a_table_is_not_written_into_what_it_is_made_from(
    llama_folder: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("The river flows north.")
    for inside, read in ((texts / "table", texts), (llama_folder / "table", llama_folder)):
        message = command_line.refused("distill", llama_folder, "--corpus", texts, "-o", inside)
        assert f"the output {inside} lies inside the input {read}" in message
        assert not inside.exists()


def test_prompts_and_fields_are_taken_as_encode_takes_them(
    llama_folder: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    corpus, options = tmp_path / "rows.jsonl", ["--dtype", "float32", "--device", "cpu"]
    rows = [
        {"_id": str(number), "body": f"river stone bridge {number} castle forest {number * 7}"} for number in range(40)
    ]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    own = [*options, "--prompts", "one-word", "--set", "reading.text_field=body"]
    output = tmp_path / "table"
    done = command_line("distill", llama_folder, "--corpus", corpus, "-o", output, "--count", 60, *own)
    assert done.code == 0, done.err
    assert command_line("encode", llama_folder, corpus, "-o", tmp_path / "store", *own).code == 0
    assert QueryTable.load(output).contract_hash == VectorStore.open(tmp_path / "store").contract_hash
    split = ("--set", "passages.tokens=9")
    assert "drop it" in command_line.refused("distill", llama_folder, "--corpus", corpus, "-o", output, *split)


def test_labeled_examples_are_sample_queries_and_fields_are_named(
    llama_folder: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    options = ["--count", 40, "--dtype", "float32", "--device", "cpu"]
    rows, named = tmp_path / "rows.jsonl", tmp_path / "named.jsonl"
    asked = [f"river stone {number} bridge" for number in range(40)]
    rows.write_text("".join(json.dumps({"query": text, "pos": ["p"]}) + "\n" for text in asked), encoding="utf-8")
    named.write_text("".join(json.dumps({"id": text, "ask": text}) + "\n" for text in asked), encoding="utf-8")
    done = command_line("distill", llama_folder, "--queries", rows, "-o", tmp_path / "table", *options)
    assert done.code == 0, done.err
    assert "fitted to 40 queries" in done.out
    call = ("distill", llama_folder, "--queries", named, "-o", tmp_path / "named", *options)
    assert "name its field (reading.text_field)" in command_line.refused(*call)
    assert command_line(*call, "--set", "reading.text_field=ask").code == 0
    assert QueryTable.load(tmp_path / "named").facts["texts"] == 40
