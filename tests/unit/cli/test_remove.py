"""`llama2vec remove`."""

from __future__ import annotations

from pathlib import Path

from running import CommandLine


def test_a_removed_document_is_not_found_and_stays_away(tmp_path: Path, command_line: CommandLine) -> None:
    docs, index = tmp_path / "docs", tmp_path / "index"
    docs.mkdir()
    (docs / "a b.md").write_text("# River\n\nA stone bridge crosses the river.")
    (docs / "c.txt").write_text("The market opens in winter.")
    command_line("sync", docs, index)
    assert command_line("remove", index, "a b.md").out == f"Removed 1 passage from {index}\n"
    assert "Nothing found" in command_line("search", index, "bridge").out
    command_line("sync", docs, index)
    assert "Nothing found" in command_line("search", index, "bridge").out
    assert "no document or passage 'a.md'" in command_line.refused("remove", index, "a.md")
    assert "would be empty" in command_line.refused("remove", index, "c.txt")
    assert "make one with `llama2vec sync`" in command_line.refused("remove", docs, "c.txt")
