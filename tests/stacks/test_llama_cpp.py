"""A model of the paper recipe with one layer, behind llama.cpp's own server: what docs/stacks.md says of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from encoders import FLOAT32, encoder_for

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.errors import BackendError
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import read_golden
from llama2vec.model.publish.exporting import Quantization, export_encoder
from llama2vec.model.publish.gguf_file import write_gguf
from llama2vec.verify.backends import open_backend
from llama2vec.verify.exported import open_exported
from llama2vec.verify.settings import ServerSettings
from llama2vec.verify.verification import Verification, verify

# As `llama-server --embeddings --pooling POOLING --cache-type-k TYPE --cache-type-v TYPE`.
SERVER = """
import sys, time
import xllamacpp as llama

file, pooling, number_format = sys.argv[1:]
settings = llama.CommonParams()
settings.model.path = file
settings.embedding = True
settings.pooling_type = getattr(llama.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling}")
settings.cache_type_k = settings.cache_type_v = getattr(llama.ggml_type, f"GGML_TYPE_{number_format}")
settings.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
settings.n_ctx = settings.n_batch = settings.n_ubatch = 1024
settings.n_parallel, settings.port = 1, 0
server = llama.Server(settings)
print("address", server.listening_address, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def servable(new_encoder: Callable[..., Path]) -> Path:
    """The paper recipe with one layer, and its GGUF file beside it."""
    folder = new_encoder("servable", "paper", layers=1)
    write_gguf(Encoder.load(folder, settings=FLOAT32), folder.parent / "model.gguf")
    return folder


@contextmanager
def llama_server(folder: Path, pooling: str, number_format: str) -> Iterator[str]:
    command = [sys.executable, "-c", SERVER, str(folder.parent / "model.gguf"), pooling, number_format]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout
            yield next(line.split()[1] for line in server.stdout if line.startswith("address"))
        finally:
            server.terminate()


def verified(folder: Path, pooling: str = "LAST", number_format: str = "F32", **changes: Any) -> Verification:
    golden = read_golden(folder)
    with llama_server(folder, pooling, number_format) as url:
        server = ServerSettings.model_validate({"url": url, "input_type_field": "prompt", **changes})
        return verify(folder, golden, open_backend("http", folder, golden, server=server), device="cpu")


def test_llama_cpp_gives_the_encoder_s_vectors_with_prompt_and_eos_sent_as_text(servable: Path) -> None:
    found = verified(servable)
    assert found.passed, found.lines()
    assert any("whether the server adds the prompts" in what for what in found.unchecked)


def test_token_ids_give_the_encoder_s_vectors_whatever_the_server_s_tokenizer_does(
    servable: Path, recipe: Callable[..., subprocess.CompletedProcess[str]], corpus_file: Path
) -> None:
    with llama_server(servable, "LAST", "F32") as url:
        finished = recipe("pooling_server.py", servable, "--url", f"{url}/v1", "--corpus", corpus_file)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.count("largest difference from the encoder") == 2
        forgotten = recipe("pooling_server.py", servable, "--url", f"{url}/v1", change={", *behind]": "]"})
    assert forgotten.returncode == 1
    assert "these are not the encoder's vectors" in forgotten.stderr


def test_a_model_that_such_a_server_cannot_pool_is_refused(
    model: Path, recipe: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    finished = recipe("pooling_server.py", model)
    assert finished.returncode == 1
    assert "its vectors are the mean of 2 layers; its vectors are the mean of 8 slots" in finished.stderr


def test_llama_cpp_s_usual_cache_in_half_precision_is_off_by_little(servable: Path) -> None:
    found = verified(servable, number_format="F16")
    gaps = [side.largest_difference or 1 for side in found.sides.values()]
    assert 1e-5 < max(gaps) < 1e-2


@pytest.mark.parametrize("pooling", ["MEAN", "CLS"])
def test_another_pooling_does_not_pass(pooling: str, servable: Path) -> None:
    found = verified(servable, pooling)
    assert not found.passed
    assert all(not side.passed for side in found.sides.values())


def test_texts_without_prompt_and_eos_do_not_pass_and_the_cause_is_named(servable: Path) -> None:
    # llama.cpp ignores the field, and so nothing stands behind the text.
    found = verified(servable, input_type_field="input_type")
    assert not found.passed
    assert {cause.fault for cause in found.causes} & {"no EOS", "no prompt"}


@pytest.mark.parametrize(
    ("kind", "prompts", "settings", "quantize"),
    [
        ("llama", PromptSettings(), {}, "none"),
        ("llama", PromptSettings(), {"query_prompt": "next", "servable": False, "query_max_tokens": 40}, "none"),
        ("llama", PromptSettings(self_prompt="", next_prompt=""), {}, "none"),
        ("llama", PromptSettings(begin="none"), {"pooling": "mean"}, "none"),
        ("llama", PromptSettings(), {}, "float16"),
        ("llama", PromptSettings(), {}, "int8"),
        ("qwen3", PromptSettings(), {}, "none"),
    ],
    ids=["servable", "two prompts", "EOS alone", "mean", "float16", "int8", "qwen3"],
)
def test_an_export_gives_the_encoder_s_vectors_with_the_pooling_that_it_names(
    kind: str,
    prompts: PromptSettings,
    settings: dict[str, Any],
    quantize: Quantization,
    save_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    base = save_model(tmp_path / "base", kind, max_position_embeddings=1024)
    chosen = EncoderSettings.model_validate({"servable": True, "passage_max_tokens": 200, **settings})
    encoder_for(base, prompts, chosen).save(tmp_path / "model")
    export_encoder(tmp_path / "model", tmp_path / "export", runtime="llama.cpp", quantize=quantize)
    home, golden, backend = open_exported("llama.cpp", tmp_path / "export")
    found = verify(home, golden, backend, device="cpu")
    assert found.passed, found.lines()
    assert min(side.lowest_cosine or 0 for side in found.sides.values()) > 0.999
    assert max(side.largest_difference or 1 for side in found.sides.values()) < {"none": 1e-5}.get(quantize, 5e-2)


def test_a_damaged_file_is_one_line(servable: Path, tmp_path: Path) -> None:
    export_encoder(servable, tmp_path / "export", runtime="llama.cpp")
    (tmp_path / "export" / "model.gguf").write_bytes(b"GGUF nothing")
    home, golden, backend = open_exported("llama.cpp", tmp_path / "export")
    with pytest.raises(BackendError, match="cannot open it; export it again"):
        verify(home, golden, backend, device="cpu")
