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
        (["--backend", "onnx"], "unknown backend"),
        (["--backend", "http"], "--url and --backend http belong together"),
        (["--url", "http://h"], "--url and --backend http belong together"),
        (["--backend", "http", "--url", "localhost:8000"], "not an address of a server"),
        (["--backend", "http", "--url", "http://h:x/"], "not an address of a server"),
        (["--backend", "file"], "--vectors and --backend file belong together"),
        (["--backend", "http", "--url", "http://h", "--timeout", "0"], "--timeout 0.0: input should be greater than 0"),
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
