"""``llama2vec ask``: a folder and a question, nothing made before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from encoders import encoder_for
from running import CommandLine

from llama2vec.artifact import owned
from llama2vec.errors import OutputBusyError
from llama2vec.retrieve.syncing.library import Library, index_in_cache

CPU = ["--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("# River\n\nA stone bridge crosses the river.", encoding="utf-8")
    (folder / "b.txt").write_text("The market opens in winter.", encoding="utf-8")
    (folder / "c.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def model(llama_folder: Path, tmp_path: Path) -> Path:
    return encoder_for(llama_folder).save(tmp_path / "encoder")


def test_words_answer_first_and_both_together_after(docs: Path, model: Path, command_line: CommandLine) -> None:
    done = command_line("ask", docs, "stone bridge", "--model", model, *CPU)
    assert done.code == 0, done.err
    words, both = done.out.split("\nBM25 and vectors together:\n")
    words, both = words.partition("  1. ")[2], both.removeprefix("  1. ")
    assert words.split()[1] == both.split()[1] == "a.md:3"
    assert done.out.startswith("BM25 results from 2 passages:\n")
    assert "2 passages, 2 of them newly encoded" in done.err
    assert "  skipped     1  a picture: c.png\n" in done.err


def test_a_second_question_needs_no_work_and_a_changed_file_is_seen(
    docs: Path, model: Path, command_line: CommandLine
) -> None:
    command_line("ask", docs, "bridge", "--model", model, *CPU)
    again = command_line("ask", docs, "market", "--model", model, *CPU)
    assert (again.out.splitlines()[0].split()[2], "encoded" in again.err) == ("b.txt:1", False)
    (docs / "b.txt").write_text("The harbor opens in winter.", encoding="utf-8")
    changed = command_line("ask", docs, "harbor", "--model", model, *CPU)
    assert changed.out.splitlines()[0].split()[2] == "b.txt:1"
    assert "1 of them newly encoded" in changed.err


def test_words_alone_make_no_vectors(docs: Path, model: Path, command_line: CommandLine) -> None:
    done = command_line("ask", docs, "market", "--words", "--model", model)
    assert done.out.splitlines()[0].split()[2] == "b.txt:1"
    assert "2 passages without vectors" in done.err
    done = command_line("ask", docs, "zeppelin", "--words", "--model", model)
    assert done.out == "Nothing found: no passage shares a word with the question.\n"


def test_a_filter_and_an_index_of_ones_own(docs: Path, model: Path, command_line: CommandLine, tmp_path: Path) -> None:
    options = ["--words", "--model", model, "--index", tmp_path / "mine", "--where", "path ~ '.md'"]
    found = command_line("ask", docs, "the river market", *options).out
    assert ("a.md" in found, "b.txt" in found) == (True, False)
    assert (tmp_path / "mine" / "documents.json").is_file()
    assert "unknown field 'year'" in command_line.refused(
        "ask", docs, "river", "--words", "--model", model, "--where", "year = 1"
    )
    options = ["--words", "--model", model, "--index", tmp_path / "none", "--where", "year = (1"]
    assert "is not closed" in command_line.refused("ask", docs, "river", *options)
    assert not (tmp_path / "none").exists()


def test_while_another_call_writes_the_index_its_present_state_answers(
    docs: Path, model: Path, command_line: CommandLine
) -> None:
    command_line("ask", docs, "bridge", "--words", "--model", model)
    (docs / "d.txt").write_text("A bridge of rope.", encoding="utf-8")
    with owned(index_in_cache(docs, str(model))):
        done = command_line("ask", docs, "bridge", "--words", "--model", model)
    assert "answering from its current state" in done.err
    assert ("a.md:3" in done.out, "d.txt" in done.out) == (True, False)


def test_while_another_first_call_reads_the_folder_the_only_word_is_that_it_writes(
    docs: Path, model: Path, command_line: CommandLine
) -> None:
    with owned(index_in_cache(docs, str(model))):
        told = command_line.refused("ask", docs, "bridge", "--words", "--model", model)
    assert "is writing it; wait for it" in told
    assert "current state" not in told


def test_one_file_is_asked_and_opened(
    docs: Path, model: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = list[Path | None]()
    monkeypatch.setattr("llama2vec.cli.answers.open_best", lambda hits, question, folder: folders.append(folder))
    command_line("ask", docs / "a.md", "bridge", "--words", "--model", model, "--open")
    assert folders == [docs.resolve()]


def test_while_another_call_makes_the_vectors_bm25_answers_once(
    docs: Path, model: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, opened = Library.sync, list[str]()

    def words_alone(library: Library, *given: Any, **options: Any) -> Any:
        if len(given) > 1:  # the encoder, too
            raise OutputBusyError("index: another process is writing it")
        return sync(library, *given, **options)

    monkeypatch.setattr(Library, "sync", words_alone)
    monkeypatch.setattr(
        "llama2vec.cli.answers.open_best", lambda hits, *_: opened.append(hits[0].passage.place.document)
    )
    done = command_line("ask", docs, "stone bridge", "--model", model, "--open", *CPU)
    assert (done.code, opened) == (0, ["a.md"])
    assert "answering from its current state" in done.err
    assert (done.out.count("a.md:3"), "vectors together" in done.out) == (1, False)


def test_mistakes_are_one_line(docs: Path, model: Path, command_line: CommandLine, tmp_path: Path) -> None:
    assert "the question is empty" in command_line.refused("ask", docs, " ")
    assert "gone" in command_line.refused("ask", tmp_path / "gone", "why?", "--model", model)
    assert "no such model" in command_line.refused("ask", docs, "why?", "--model", "./no-model")


def test_an_answer_is_one_json_object_where_that_is_asked_for(
    docs: Path, model: Path, command_line: CommandLine
) -> None:
    done = command_line("ask", docs, "stone bridge", "--model", model, "--json", *CPU)
    answer = json.loads(done.out)
    assert (answer["mode"], answer["hits"][0]["place"]["document"]) == ("hybrid", "a.md")
    assert '--json needs a question: llama2vec ask FOLDER "…"' in command_line.refused("ask", docs, "--json")
    assert "--open needs a question" in command_line.refused("ask", docs, "--open")


def test_prompts_make_an_index_of_their_own(docs: Path, llama_folder: Path, command_line: CommandLine) -> None:
    plain = ("ask", docs, "stone bridge", "--model", llama_folder, *CPU)
    assert "2 of them newly encoded" in command_line(*plain).err
    assert "2 of them newly encoded" in command_line(*plain, "--prompts", "one-word").err
    assert "encoded" not in command_line(*plain).err


def test_a_folder_that_holds_the_cache_is_answered_from(
    docs: Path, model: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAMA2VEC_CACHE")
    monkeypatch.setenv("HOME", str(docs))
    for cache in (docs / ".cache" / "llama2vec", docs / "cache"):
        first = command_line("ask", docs, "stone bridge", "--words", "--model", model)
        assert f"{cache / 'indexes'}" in first.err
        again = command_line("ask", docs, "market", "--words", "--model", model)
        assert [done.out.split()[2] for done in (first, again)] == ["a.md:3", "b.txt:1"]
        assert again.err == ""  # The index is no document of its folder
        monkeypatch.setenv("LLAMA2VEC_CACHE", str(docs / "cache"))


def test_models_of_one_name_have_an_index_each(
    docs: Path, llama_folder: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    models = [encoder_for(llama_folder).save(tmp_path / name / "finetuned") for name in "ab"]
    for folder in models:
        assert "2 of them newly encoded" in command_line("ask", docs, "stone bridge", "--model", folder, *CPU).err
    for folder in models:
        assert "encoded" not in command_line("ask", docs, "stone bridge", "--model", folder, *CPU).err


def test_the_index_of_the_ready_model_keeps_its_name(
    docs: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[Path]()

    def stop(following: object, home: Path) -> None:
        made.append(home)
        raise OutputBusyError("enough")

    monkeypatch.setattr("llama2vec.cli.ask._sync", stop)
    command_line("ask", docs, "market", "--words")
    command_line("ask", docs, "market", "--words", "--model", "someone/model", "--prompts", "one-word")
    assert made == [
        index_in_cache(docs, "llama2vec-smollm2-135m"), index_in_cache(docs, "someone/model one-word"),
    ]  # fmt: skip
