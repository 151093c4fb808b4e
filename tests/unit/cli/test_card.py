"""``llama2vec card``."""

from __future__ import annotations

from pathlib import Path

import pytest
from cards import card_of
from encoders import FLOAT32
from running import CommandLine

from llama2vec.model.encoder import Encoder
from llama2vec.records import Report
from llama2vec.score.results import Result, write_result


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    return Encoder.load(llama_folder, settings=FLOAT32).save(tmp_path / "tiny")


def test_it_writes_scores_and_name(command_line: CommandLine, folder: Path, tmp_path: Path) -> None:
    write_result(tmp_path, Result(Report("t", "tiny", {"AP": 0.25}), 1.0))
    done = command_line("card", folder, "--scores", tmp_path / "t.json", "--name", "me/other")
    assert (done.code, done.out) == (0, f"Wrote {folder / 'README.md'} with 1 result\n")
    assert "| t | tiny | AP | 0.250 |" in card_of(folder)
    assert "# other" in card_of(folder)


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[]"])
def test_a_file_that_holds_no_result_is_refused(
    command_line: CommandLine, folder: Path, tmp_path: Path, content: str
) -> None:
    before = card_of(folder)
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    assert "report.json" in command_line.refused("card", folder, "--scores", tmp_path / "report.json")
    assert card_of(folder) == before


def test_a_card_with_an_author_is_kept(command_line: CommandLine, folder: Path) -> None:
    (folder / "README.md").write_text("# Mine\n", encoding="utf-8")
    assert "has an author" in command_line.refused("card", folder)
    assert card_of(folder) == "# Mine\n"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"encoder": 5}'])
def test_a_broken_contract_is_one_line(command_line: CommandLine, folder: Path, content: str) -> None:
    (folder / "README.md").unlink()
    (folder / "llama2vec.json").write_text(content, encoding="utf-8")
    assert "llama2vec.json" in command_line.refused("card", folder)
    assert not (folder / "README.md").exists()
