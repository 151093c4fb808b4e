"""``llama2vec export`` to ONNX, which ``verify --backend onnx`` reads, and to engines."""

from __future__ import annotations

import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from memory_engine import MemoryEngine
from running import CommandLine
from storing import write

from llama2vec.engines.opening import ENGINES, Target


def test_faiss_files_are_written_once_and_the_python_that_searches_is_printed(
    command_line: CommandLine, tmp_path: Path
) -> None:
    write(tmp_path / "store")
    arguments = ("export", tmp_path / "store", "--to", "faiss", "--at", tmp_path / "files")
    done = command_line(*arguments).out
    first, snippet = done.split("\n\nSearch it from Python:\n\n")
    assert first == f"Wrote 10 passages to {tmp_path / 'files'}"
    compile(snippet, "snippet", "exec")
    assert command_line(*arguments).out.startswith(f"{tmp_path / 'files'} is already done; nothing to do\n")
    assert command_line(*arguments, "--snippet").out == snippet
    write(tmp_path / "other", 3)
    other = ("export", tmp_path / "other", *arguments[2:])
    refused = command_line.refused(*other)
    assert f"7 of which are no longer in {tmp_path / 'other'}; pass --overwrite to delete those 7" in refused
    assert command_line(*other, "--overwrite").out.startswith("Wrote 3 passages to")


def test_the_python_loads_a_model_without_a_contract_as_the_store_did(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"id": "river", "text": "A stone bridge over the river."}\n')
    store, files = tmp_path / "store", tmp_path / "files"
    encode = ("encode", llama_folder, tmp_path / "texts.jsonl", "-o", store, "--prompts", "last-token")
    assert command_line(*encode).code == 0
    done = command_line("export", store, "--to", "faiss", "--at", files)
    snippet = done.out.partition("Search it from Python:\n\n")[2]
    with redirect_stdout(StringIO()) as printed:
        exec(compile(snippet, "snippet", "exec"), {})
    assert "'A stone bridge over the river.'" in printed.getvalue()
    for engine in ENGINES:
        text = command_line("export", store, "--to", engine, "--at", "http://host:6333", "--snippet").out
        compile(text, engine, "exec")
        assert "encoder = Encoder.from_spec(ModelSpec.of_store(VectorStore.open(" in text
        assert "import Encoder, VectorStore\nfrom llama2vec.model.source import ModelSpec\n" in text


def test_the_python_runs_in_every_folder_though_all_paths_were_given_relative_to_one(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "texts.jsonl").write_text('{"id": "river", "text": "A stone bridge over the river."}\n')
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llama_folder, "model")
    assert command_line("encode", "./model", "texts.jsonl", "-o", "store").code == 0
    done = command_line("export", "store", "--to", "faiss", "--at", "files")
    snippet = done.out.partition("Search it from Python:\n\n")[2]
    monkeypatch.chdir(tmp_path / "elsewhere")
    with redirect_stdout(StringIO()) as printed:
        exec(compile(snippet, "snippet", "exec"), {})
    assert "'A stone bridge over the river.'" in printed.getvalue()


def test_an_engine_gets_the_store_under_the_names_of_corpus_and_contract(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "store", source={"corpus": "data/My Notes (2026).jsonl"})
    engine, opened = MemoryEngine(), list[tuple[Target, float]]()

    def opens(target: Target, timeout: float) -> MemoryEngine:
        opened.append((target, timeout))
        return engine

    monkeypatch.setattr(Target, "open", opens)
    arguments = ("export", tmp_path / "store", "--to", "qdrant", "--at", "http://host:6333", "--timeout", "3")
    done = command_line(*arguments, "--bm25").out
    ((target, seconds),) = opened
    assert (target.kind, target.at, seconds) == ("qdrant", "http://host:6333", 3.0)
    assert re.fullmatch(r"llama2vec_my_notes_2026_[0-9a-f]{8}_c0ffee", target.collection)
    assert "Exported 10 passages to the collection in memory: 10 written, 0 unchanged, 0 removed\n" in done
    assert "query_words(question, 'en')" in done
    assert "is already up to date (10 passages); nothing to do" in command_line(*arguments, "--bm25").out
    assert "leave out --bm25" not in command_line.refused(*arguments)
    assert "pass --bm25 --language en" in command_line.refused(*arguments)


def test_what_cannot_be_exported_is_refused(command_line: CommandLine, tmp_path: Path) -> None:
    write(tmp_path / "store")
    to = ("export", tmp_path / "store", "--at", tmp_path / "files", "--to")
    assert "--to excel: unknown; choose from onnx, gguf, milvus, qdrant" in command_line.refused(*to, "excel")
    assert "--bm25 has no meaning for --to faiss; leave it out" in command_line.refused(*to, "faiss", "--bm25")
    assert "--language has no meaning for --to faiss" in command_line.refused(*to, "faiss", "--language", "de")
    assert "--language sets the language of BM25; add --bm25" in command_line.refused(*to, "qdrant", "--language", "de")
    assert "--collection has no meaning for --to faiss" in command_line.refused(*to, "faiss", "--collection", "a")
    for target in ("faiss", "onnx"):
        slow = command_line.refused(*to, target, "--timeout", "60")
        assert f"--timeout has no meaning for --to {target}; leave it out" in slow
    missing = command_line.refused("export", tmp_path / "none", "--to", "faiss", "--at", tmp_path / "files")
    assert "no vector store at" in missing
    write(tmp_path / "words", encoder=None)
    none = command_line.refused("export", tmp_path / "words", "--to", "faiss", "--at", tmp_path / "files")
    assert "has no vectors" in none
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize(("to", "name"), [("lancedb", ""), ("qdrant", "base"), ("milvus", "base.db"), ("faiss", "")])
def test_a_store_is_not_exported_into_itself(command_line: CommandLine, tmp_path: Path, to: str, name: str) -> None:
    store = tmp_path / "store"
    write(store)
    before = sorted(store.rglob("*"))
    refused = command_line.refused("export", store, "--to", to, "--at", store / name)
    assert "choose another output" in refused
    assert sorted(store.rglob("*")) == before


def test_it_says_how_near_the_export_is(command_line: CommandLine, exported: Path) -> None:
    done = command_line("export", exported.parent / "encoder", "-o", exported)
    assert done.code == 0, done.err
    assert f"{exported} is already done [0." in done.out
    assert f"at least 1.00000; check more texts with `llama2vec verify {exported} --backend onnx`" in done.out


def test_verify_passes_and_only_compares(command_line: CommandLine, exported: Path) -> None:
    done = command_line("verify", exported, "--backend", "onnx")
    assert done.code == 0, done.err
    assert f"PASS: onnx gives the vectors of {exported.parent / 'encoder'}" in done.out
    other = command_line.refused("verify", exported, "--backend", "llama.cpp")
    assert "no export for llama.cpp (it is one for onnx, which --backend onnx checks); give a folder that" in other
    assert "`llama2vec export --to gguf` wrote" in other
    refused = command_line.refused("verify", exported, "--backend", "onnx", "--write")
    assert "--backend onnx only compares; drop --write" in refused
    assert "has a number format of its own" in command_line.refused(
        "verify", exported, "--backend", "onnx", "--dtype", "float16"
    )


def test_another_quantization_is_refused(command_line: CommandLine, exported: Path, tmp_path: Path) -> None:
    refused = command_line.refused("export", exported, "-o", tmp_path / "out", "--quantize", "int4")
    assert "--quantize int4: unknown; choose from none, float16, int8" in refused
