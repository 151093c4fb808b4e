"""Options of ``llama2vec verify`` that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import CommandLine

from llama2vec.model.encoder import Encoder


@pytest.fixture(scope="module")
def saved_encoder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Encoder.load(llama_folder).save(tmp_path_factory.mktemp("verify") / "model")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--backend", "tensorrt"], "unknown backend"),
        (["--backend", "onnx"], "no export for onnx"),
        (["--backend", "http"], "--url and --backend http belong together"),
        (["--url", "http://h"], "--url and --backend http belong together"),
        (["--backend", "http", "--url", "localhost:8000"], "not an address of a server"),
        (["--backend", "http", "--url", "http://h:x/"], "not an address of a server"),
        (["--backend", "file"], "--vectors and --backend file belong together"),
        (["--backend", "http", "--url", "http://h", "--timeout", "0"], "--timeout 0.0: input should be greater than 0"),
        (["--served-name", "m"], "--served-name says how a server is asked, and --backend llama2vec asks none"),
        (["--base64", "--backend", "transformers"], "--base64 says how a server is asked"),
        (["--timeout", "3"], "--timeout says how a server is asked"),
        (["--input-type-field", "none", "--backend", "onnx"], "--input-type-field says how a server is asked"),
        (["--export-texts", "t.jsonl", "--output", "r.json"], "--output has no meaning with --export-texts, which"),
        (["--export-texts", "t.jsonl", "--tolerance", "0"], "--tolerance has no meaning with --export-texts"),
        (["--export-texts", "t.jsonl", "--vectors", "v.npy"], "--vectors has no meaning with --export-texts"),
        (["--dtype", "int8"], "unknown number format"),
        (["--backend", "http", "--url", "http://h", "--dtype", "float32"], "omit --dtype"),
        (["--backend", "file", "--vectors", "nothing.npy"], "nothing.npy: cannot be read"),
        (["--backend", "file", "--vectors", "nothing.csv"], "convert it"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    saved_encoder: Path, command_line: CommandLine, options: list[str], told: str
) -> None:
    assert told in command_line.refused("verify", saved_encoder, *options)


@pytest.mark.parametrize("option", ["--output", "--export-texts"])
def test_overwrite_replaces_what_verify_wrote_and_nothing_else(
    saved_encoder: Path, tmp_path: Path, command_line: CommandLine, option: str
) -> None:
    kept = {path: path.read_bytes() for path in saved_encoder.iterdir() if path.is_file()}
    for name in ("model.safetensors", "llama2vec.json", "new.json"):
        line = command_line.refused("verify", saved_encoder, option, saved_encoder / name, "--overwrite")
        assert "lies inside the input" in line
    assert {path: path.read_bytes() for path in saved_encoder.iterdir() if path.is_file()} == kept
    foreign, written = tmp_path / "foreign.json", tmp_path / "written.json"
    foreign.write_bytes(kept[saved_encoder / "llama2vec.json"])
    assert "does not hold" in command_line.refused("verify", saved_encoder, option, foreign, "--overwrite")
    assert foreign.read_bytes() == kept[saved_encoder / "llama2vec.json"]
    for options in ([], ["--overwrite"]):
        assert command_line("verify", saved_encoder, option, written, *options).code == 0
    line = command_line.refused("verify", saved_encoder, option, written)
    assert line == f"llama2vec: {written} exists already; choose another path or --overwrite"
