"""A GGUF file behind llama.cpp's own server (the xllamacpp package), asked for vectors as any client would."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llama2vec.errors import BackendError, MissingDependencyError
from llama2vec.model.contract import Contract
from llama2vec.model.publish.prompted_tokenizer import surroundings
from llama2vec.records import Side, Vectors
from llama2vec.verify.server import EmbeddingServer
from llama2vec.verify.settings import ServerSettings

# As `llama-server --embeddings --cache-type-k f32 --cache-type-v f32`, with the pooling that the file names.
_SERVER = """
import sys, time
import xllamacpp as llama

file, size = sys.argv[1:]
settings = llama.CommonParams()
settings.model.path = file
settings.embedding = True
settings.cache_type_k = settings.cache_type_v = llama.ggml_type.GGML_TYPE_F32
settings.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
settings.n_ctx = settings.n_batch = settings.n_ubatch = int(size)
settings.n_parallel, settings.port = 1, 0
server = llama.Server(settings)
print("address", server.listening_address, flush=True)
sys.stdin.read()
"""
# Words at a cut may take a few tokens more than the text did.
_SPARE_TOKENS = 64


class LlamaCpp:
    """An exported GGUF file and the encoder that it was made from.

    Raises:
        MissingDependencyError: xllamacpp is not installed.
    """

    def __init__(self, file: Path, home: Path, contract: Contract, eos: str) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingDependencyError("running llama.cpp needs xllamacpp; pip install xllamacpp")
        self._file, self._home, self._eos = file, home, eos
        around = [sum(map(len, surroundings(contract, side))) for side in ("query", "passage")]
        most = max(contract.encoder.query_max_tokens, contract.encoder.passage_max_tokens)
        self._size = most + max(around) + _SPARE_TOKENS
        # llama.cpp adds an EOS that is all of the prompt.
        self._adds_eos = {side: len(surroundings(contract, side)[1]) == 1 for side in ("query", "passage")}

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Return the vectors [N, D] of texts, which a new server gets with the prompt as text."""
        with self._server() as url:
            settings = ServerSettings(url=url, input_type_field="prompt", timeout_seconds=600)
            server = EmbeddingServer(self._home, settings)
            if self._adds_eos[side]:
                server.leave_out(self._eos)
            return server.embed(side, texts)

    @contextmanager
    def _server(self) -> Iterator[str]:
        command = [sys.executable, "-c", _SERVER, str(self._file), str(self._size)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                assert server.stdout
                url = next((line.split()[1] for line in server.stdout if line.startswith("address")), None)
                if url is None:
                    raise BackendError(f"{self._file}: llama.cpp cannot open it; export it again")
                yield url
            finally:
                server.terminate()
