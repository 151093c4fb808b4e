"""``llama2vec distill``: sample queries in, a table out."""

from __future__ import annotations

from pathlib import Path

from running import CommandLine

from llama2vec.retrieve.query_table import QueryTable


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
    assert again.out.startswith(f"{output} is already done, nothing to do [")
    assert "cosine 0." in finished.out
    assert QueryTable.load(output).facts["texts"] > 30
    for verb in (("encode", output, corpus_file, "-o", tmp_path / "store"), ("explain", output, "-q", "a", "-p", "b")):
        assert "a query table, which only `search` and Retriever.open take" in command_line.refused(*verb)
    message = command_line.refused("distill", llama_folder, "-o", tmp_path / "none")
    assert "give --queries, or --corpus to draw them from" in message


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
