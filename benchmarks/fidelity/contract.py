"""How far do one model's vectors differ between the stacks that open it? Each stack computes in a fresh process.

    python -m benchmarks.fidelity.contract --model runs/adapted --output benchmarks/results/contract-cpu.json

All read the same real texts as queries and as passages, in their own batches, in float32. A row shows the largest
difference between any number of any vector and the encoder's. ``--model`` is saved again first, so that it carries the
files of this version.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Vectors = dict[str, Any]
REACH = 1e-5
TEXTS = 32


def ours(model: str, texts: dict[str, list[str]]) -> Vectors:
    """Embed as `llama2vec encode` does."""
    from llama2vec import Encoder
    from llama2vec.config import ModelSettings

    encoder = Encoder.load(model, settings=ModelSettings(dtype="float32"))
    return {"query": encoder.encode_queries(texts["query"]), "passage": encoder.encode_passages(texts["passage"])}


def plain_transformers(model: str, texts: dict[str, list[str]]) -> Vectors:
    """Embed with AutoModel, following only the contract file."""
    import torch

    from llama2vec.verify.plain import PlainModel

    return _asked(PlainModel(Path(model), "float32", torch.device("cpu")), texts)


def http(model: str, texts: dict[str, list[str]]) -> Vectors:
    """Embed over HTTP, with a service in its own process."""
    from benchmarks.speed.serving import service
    from llama2vec.verify.server import EmbeddingServer
    from llama2vec.verify.settings import ServerSettings

    # All texts in one request: on a busy machine that takes longer than a client would wait.
    with service(model, "float32", ["--timeout", "600"]) as (_, address):
        return _asked(EmbeddingServer(Path(model), ServerSettings(url=address)), texts)


def _asked(backend: Any, texts: dict[str, list[str]]) -> Vectors:
    return {"query": backend.embed("query", texts["query"]), "passage": backend.embed("passage", texts["passage"])}


def with_package(model: str, texts: dict[str, list[str]]) -> Vectors:
    """Embed with sentence-transformers, opened through our integration."""
    from llama2vec.integrations.sentence_transformers import load_sentence_transformer

    return _by_library(load_sentence_transformer(model, device="cpu"), texts)


def without_package(model: str, texts: dict[str, list[str]]) -> Vectors:
    """Embed with sentence-transformers where llama2vec cannot be imported."""

    class Absent:
        def find_spec(self, name: str, *_: object) -> None:
            if name.partition(".")[0] == "llama2vec":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())  # type: ignore[arg-type]
    from sentence_transformers import SentenceTransformer

    found = _by_library(SentenceTransformer(model, trust_remote_code=True, device="cpu"), texts)
    assert not [name for name in sys.modules if name.partition(".")[0] == "llama2vec"]
    return found


def _by_library(library: Any, texts: dict[str, list[str]]) -> Vectors:
    return {"query": library.encode_query(texts["query"]), "passage": library.encode_document(texts["passage"])}


def mteb(model: str, texts: dict[str, list[str]]) -> Vectors:
    """Embed through the wrapper that MTEB calls."""
    from mteb.types import PromptType

    from llama2vec.integrations.mteb import MtebEncoder

    encoder = MtebEncoder(model, device="cpu", dtype="float32")
    asked = {"query": PromptType.query, "passage": PromptType.document}
    return {
        side: encoder.encode([{"text": texts[side]}], task_metadata=None, hf_split="", hf_subset="", prompt_type=kind)
        for side, kind in asked.items()
    }


STACKS: dict[str, Callable[[str, dict[str, list[str]]], Vectors]] = {
    "ours": ours,
    "ours, another process": ours,
    "transformers": plain_transformers,
    "sentence-transformers, with llama2vec": with_package,
    "sentence-transformers, without llama2vec": without_package,
    "HTTP service": http,
    "MTEB": mteb,
}


def main() -> None:
    """Embed with every stack and compare."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", required=True, help="folder of a saved encoder")
    options.add_argument("--output", type=Path, help="JSON file to write")
    options.add_argument("--stack", choices=STACKS, help=argparse.SUPPRESS)
    options.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.stack:
        texts = json.loads(arguments.texts.read_text(encoding="utf-8"))
        np.savez(arguments.output, **STACKS[arguments.stack](arguments.model, texts))
        return
    _compare(arguments)


def _compare(arguments: argparse.Namespace) -> None:
    from benchmarks.provenance import made_by
    from benchmarks.texts import DATA, documents
    from llama2vec import Encoder
    from llama2vec.config import ModelSettings
    from llama2vec.files import write_json

    source, found = documents(DATA)
    passages = [" ".join(passages[:3]) for passages in found if len(passages) > 2][:TEXTS]
    texts = {"query": [passage.partition(". ")[0] for passage in passages], "passage": passages}
    vectors: dict[str, Vectors] = {}
    with tempfile.TemporaryDirectory(prefix="contract-") as home:
        model = str(Encoder.load(arguments.model, settings=ModelSettings(dtype="float32")).save(Path(home) / "model"))
        kept = Path(home) / "texts.json"
        kept.write_text(json.dumps(texts), encoding="utf-8")
        for stack in STACKS:
            made = Path(home) / "vectors.npz"
            command = [sys.executable, "-m", "benchmarks.fidelity.contract", "--model", model, "--stack", stack]
            subprocess.run([*command, "--texts", str(kept), "--output", str(made)], check=True)
            vectors[stack] = dict(np.load(made))
    rows = []
    for stack, other in vectors.items():
        if stack != "ours":
            apart = {
                side: float(np.abs(other[side].astype(np.float64) - vectors["ours"][side]).max()) for side in texts
            }
            rows.append({"stack": stack, **apart, "reach": REACH, "reached": max(apart.values()) < REACH})
    print("| stack | queries | passages |\n|---|---|---|")
    for row in rows:
        print(f"| {row['stack']} | {row['query']:.1e} | {row['passage']:.1e} |")
    if arguments.output:
        results = {"rows": rows, "texts": {"source": source, "count": len(passages)}, "model": arguments.model}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output, {**results, **made_by()})
    if not all(row["reached"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
