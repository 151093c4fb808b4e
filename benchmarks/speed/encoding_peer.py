"""One side of ``encoding_peers.py`` in a process of its own: ``python -m benchmarks.speed.encoding_peer SIDE WORK``.

It answers one JSON object a line until its input ends. A side imports no more than its program needs, because the time
from the start of the process to the first vector is measured too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

Embed = Callable[[Sequence[str], int], Any]
"""Texts and the most rows of a batch, unless the program cuts its own → unit vectors [N, D]."""
_CELLS = {"sentence-transformers": (1024, 4096), "openvino": (1024, 4096)}
"""Sizes of a batch, in tokens, that a program tries; the faster one is measured."""
_USUAL_CELLS = (1024,)
"""What slower programs take: the data of their layers should stay in the caches."""
_TRIED_SECONDS = 1.5


def ours(work: Path, *, dtype: str, compiled: bool = False) -> Embed:
    from llama2vec.config import ModelSettings
    from llama2vec.model.encoder import Encoder

    settings = ModelSettings(device="cpu", dtype=dtype, compile=compiled)
    encoder = Encoder.load(work / "model", settings=settings)
    return lambda texts, _: encoder.encode_queries(texts) if len(texts) == 1 else encoder.encode_passages(texts)


def sentence_transformers(work: Path, *, dtype: str = "float32", backend: str = "torch") -> Embed:
    """The library as its documentation builds it from modules; it sorts by length and cuts batches itself.

    Its ONNX and OpenVINO backends need optimum.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    from benchmarks.speed.encoding_sides import library_modules, prompted

    transformer, pooling = library_modules(str(work / "model"), dtype, backend)
    library = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")

    def embed(texts: Sequence[str], rows: int) -> Any:
        found = library.encode(
            prompted(texts, transformer.tokenizer), batch_size=rows, show_progress_bar=False, convert_to_tensor=True
        )
        return found.float().numpy()

    return embed


def onnx_runtime(work: Path, *, folder: str) -> Embed:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, _threads()
    session = onnxruntime.InferenceSession(work / folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    run = partial(_padded, work, lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0])
    return run()


def openvino(work: Path, *, folder: str, precision: str) -> Embed:
    import openvino as program

    # Both cores work on one batch, as with the other sides.
    settings = {
        "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": _threads(),
    }  # fmt: skip
    model = program.Core().compile_model(work / folder / "model.xml", "CPU", settings)
    return _padded(work, lambda ids, mask: model([ids, mask])[0])


def llama_cpp(work: Path, *, file: str) -> Embed:
    """llama.cpp built for this processor (llama-cpp-python from its sources), in embedding mode, by its C interface."""
    import ctypes

    import llama_cpp as program

    program.llama_backend_init()
    quiet = program.llama_log_callback(lambda *_: None)
    program.llama_log_set(quiet, ctypes.c_void_p(0))
    path = str(work / file).encode()
    model = program.llama_model_load_from_file(path, program.llama_model_default_params())
    width, tokenizer = program.llama_model_n_embd(model), _tokenizer(work)
    contexts: dict[tuple[int, int], Any] = {}

    def context(rows: int, longest: int) -> Any:
        if (rows, longest) not in contexts:
            settings = program.llama_context_default_params()
            settings.n_batch = settings.n_ubatch = rows * longest
            # A sequence's share of the context is a multiple of 256 tokens.
            settings.n_ctx = rows * -(-longest // 256) * 256
            settings.n_seq_max, settings.embeddings = rows, True
            settings.pooling_type = program.LLAMA_POOLING_TYPE_LAST
            settings.n_threads = settings.n_threads_batch = _threads()
            contexts[rows, longest] = program.llama_init_from_model(model, settings)
        return contexts[rows, longest]

    def embed(texts: Sequence[str], rows: int) -> Any:
        ids = [one.ids for one in tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        rows = max(1, min(rows, len(ids)))
        # Contexts serve texts of any length up to the next step.
        opened = context(rows, -(-len(ids[order[0]]) // 32) * 32)
        found = np.empty((len(ids), width), np.float32)
        for start in range(0, len(ids), rows):
            places = order[start : start + rows]
            _decode(program, opened, [ids[place] for place in places])
            for row, place in enumerate(places):
                vector = program.llama_get_embeddings_seq(opened, row)
                found[place] = np.ctypeslib.as_array(vector, (width,))
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    embed.kept = quiet  # type: ignore[attr-defined]
    return embed


def _decode(program: Any, context: Any, rows: Sequence[Sequence[int]]) -> None:
    """Read rows of token ids, each as a sequence of its own."""
    total = sum(map(len, rows))
    batch = program.llama_batch_init(total, 0, 1)
    place = 0
    for sequence, row in enumerate(rows):
        for position, token in enumerate(row):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, sequence, 1
            place += 1
    batch.n_tokens = total
    program.llama_memory_clear(program.llama_get_memory(context), True)
    failed = program.llama_decode(context, batch)
    program.llama_batch_free(batch)
    if failed:
        raise RuntimeError(f"llama_decode returned {failed}")


def llama_cpp_wheel(work: Path, *, file: str) -> Embed:
    """llama.cpp as the wheel of xllamacpp has it, in embedding mode, by its server's function."""
    import base64

    import xllamacpp as program

    settings = program.CommonParams()
    settings.model.path, settings.embedding = str(work / file), True
    settings.n_parallel, settings.n_ctx = 8, 8 * 1024
    settings.n_batch = settings.n_ubatch = 2048
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = _threads()
    settings.verbosity = -1
    server, tokenizer = program.Server(settings), _tokenizer(work)

    def embed(texts: Sequence[str], _: int) -> Any:
        ids = [one.ids for one in tokenizer.encode_batch(list(texts))]
        answer = json.loads(server.handle_embeddings(json.dumps({"input": ids, "encoding_format": "base64"})))
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), np.float32) for row in rows])

    return embed


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1


def _busy_seconds() -> float:
    """Return the seconds that the processors have worked for anyone, or were taken from this machine; 0 off Linux."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    except OSError:
        return 0.0
    user, nice, system, _, _, interrupts, soft, stolen = map(int, first[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _tokenizer(work: Path) -> Any:
    """Return the exported tokenizer, which adds the prompt; batches are padded elsewhere."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(work / "onnx" / "tokenizer.json"))
    found.no_padding()
    return found


def _padded(work: Path, run: Callable[[Any, Any], Any]) -> Embed:
    """Return what reads texts in batches of similar length, padded on the right, with a program's own ``run``."""
    tokenizer = _tokenizer(work)

    def embed(texts: Sequence[str], rows: int) -> Any:
        ids = [one.ids for one in tokenizer.encode_batch(list(texts))]
        order, found = sorted(range(len(ids)), key=lambda row: -len(ids[row])), [None] * len(ids)
        for start in range(0, len(ids), rows):
            places = order[start : start + rows]
            longest = len(ids[places[0]])
            tokens, mask = np.zeros((2, len(places), longest), np.int64)
            for row, place in enumerate(places):
                tokens[row, : len(ids[place])], mask[row, : len(ids[place])] = ids[place], 1
            for place, vector in zip(places, run(tokens, mask), strict=True):
                found[place] = vector
        return np.stack(found)  # type: ignore[arg-type]

    return embed


SIDES: dict[str, Callable[[Path], Embed]] = {
    "ours": partial(ours, dtype="bfloat16", compiled=True),
    "ours-stock": partial(ours, dtype="bfloat16"),
    "ours-float32": partial(ours, dtype="float32"),
    "sentence-transformers": partial(sentence_transformers, dtype="bfloat16"),
    "sentence-transformers-onnx": partial(sentence_transformers, backend="onnx"),
    "sentence-transformers-openvino": partial(sentence_transformers, backend="openvino"),
    "openvino": partial(openvino, folder="openvino", precision="bf16"),
    "openvino-int8": partial(openvino, folder="openvino-int8", precision="bf16"),
    "onnxruntime": partial(onnx_runtime, folder="onnx"),
    "onnxruntime-int8": partial(onnx_runtime, folder="onnx-int8"),
    "llama.cpp-bf16": partial(llama_cpp, file="bf16.gguf"),
    "llama.cpp-q8_0": partial(llama_cpp, file="q8_0.gguf"),
    "llama.cpp-q4_0": partial(llama_cpp, file="q4_0.gguf"),
    "llama.cpp-wheel-q8_0": partial(llama_cpp_wheel, file="q8_0.gguf"),
}


class Side:
    """A side that is open, and the texts."""

    def __init__(self, name: str, work: Path) -> None:
        self._embed = SIDES[name](work)
        self._sizes = next((sizes for start, sizes in _CELLS.items() if name.startswith(start)), _USUAL_CELLS)
        self._work, self._rows = work, dict[str, int]()
        self._texts = json.loads((work / "texts.json").read_text(encoding="utf-8"))

    def first(self, length: str) -> dict[str, Any]:
        """Embed one text, the first that this process sees."""
        return {"vector": self._one(self._texts[length][0][0])}

    def throughput(self, length: str, seconds: float) -> dict[str, Any]:
        """Choose a batch size the first time, then time one pass of about so many seconds over texts of a length."""
        tried = {}
        if length not in self._rows:
            for rows in self._sizes:
                size = max(1, rows // int(length))
                self._timed(length, size, max(size, 8))  # Memory is taken, kernels are chosen, code is compiled.
                tried[size] = self._for_seconds(length, size, _TRIED_SECONDS)[0] if len(self._sizes) > 1 else 0.0
            self._rows[length] = max(tried, key=lambda size: tried[size])
        rows = self._rows[length]
        rate, found = self._for_seconds(length, rows, seconds)
        return {"tokens_per_second": rate, **found, "rows": rows, "tried": tried if len(tried) > 1 else {}}

    def vectors(self, length: str, rows: int, file: str) -> dict[str, Any]:
        """Compare the vectors with the true ones in the file."""
        expected = np.load(file).astype(np.float64)
        texts = [text for text, _ in self._texts[length][: len(expected)]]
        found = np.asarray(self._embed(texts, rows), np.float64)
        # Not the product alone: a norm computed in 16 bits is off by up to 0.004.
        cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        return {"min_cosine": float(cosines.min()), "mean_cosine": float(cosines.mean()), "checked": len(expected)}

    def latency(self, length: str, warm_up: int, count: int) -> dict[str, Any]:
        """Time single texts one after the other; each is another text."""
        seconds = []
        for text, _ in islice(cycle(self._texts[length]), warm_up + count):
            started = time.perf_counter()
            self._one(text)
            seconds.append(time.perf_counter() - started)
        kept = 1000 * np.array(seconds[warm_up:])
        return {"p50_ms": float(np.percentile(kept, 50)), "p95_ms": float(np.percentile(kept, 95)), "queries": count}

    def _one(self, text: str) -> float:
        return float(np.asarray(self._embed([text], 1))[0, 0])

    def _for_seconds(self, length: str, rows: int, seconds: float) -> tuple[float, dict[str, Any]]:
        """Time one pass over as many texts as take about so long; a short pass before tells how many."""
        few = max(rows, 1, 2048 // int(length))
        rate, found = self._timed(length, rows, few)
        more = int(few * seconds / max(found["seconds"], 1e-6)) // few * few
        return self._timed(length, rows, more) if more > few else (rate, found)

    def _timed(self, length: str, rows: int, count: int) -> tuple[float, dict[str, Any]]:
        chosen = list(islice(cycle(self._texts[length]), count))
        texts, tokens = [text for text, _ in chosen], sum(number for _, number in chosen)
        started, busy, own = time.perf_counter(), _busy_seconds(), time.process_time()
        self._embed(texts, rows)
        seconds = time.perf_counter() - started
        others = (_busy_seconds() - busy - (time.process_time() - own)) / seconds
        return tokens / seconds, {"seconds": seconds, "texts": count, "tokens": tokens, "others": others}


def main() -> None:
    """Open the side and answer ``{"do": "throughput", "length": "128", …}`` and its like."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("side", help=", ".join(SIDES))  # An unknown one is answered like a side that cannot be opened
    options.add_argument("work", type=Path, help="folder that encoding_files.py filled")
    given = options.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What a program prints must not stand between the answers.
    side: Side | None = None
    for line in sys.stdin:
        request = json.loads(line)
        action = request.pop("do")
        try:
            side = side or Side(given.side, given.work)
            answer = getattr(side, action)(**request)
        # Any program's error is a line in the results.
        except Exception as error:
            told = str(error).strip().splitlines() or [""]
            answer = {"failed": f"{type(error).__name__}: {told[0]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
