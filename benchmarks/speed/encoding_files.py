"""What ``encoding_peers.py`` measures on: one model in every program's format, texts of each length, true vectors.

``python -m benchmarks.speed.encoding_files JOB.json`` writes what the job's folder lacks and notes what cannot be
written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.adaptation_sides import non_embedding_parameters
from benchmarks.speed.encoding_sides import prompted, token_ids
from benchmarks.texts import texts_of_length
from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.files import write_json
from llama2vec.model.backbone import decoder
from llama2vec.model.device import cpu_has_bfloat16
from llama2vec.model.encoder import Encoder
from llama2vec.model.publish.exporting import export_encoder
from llama2vec.model.publish.gguf_file import FILE_TYPES, write_gguf

MODEL, TEXTS, FACTS = "model", "texts.json", "facts.json"
GGUF = {"bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
_TEXTS = 320  # Of each length; timed passes go round them.
_PROMPTS = PromptSettings()
_LONGEST = 1024


def prepare(job: dict[str, Any]) -> None:
    """Write the model, its other formats, the texts, and the vectors of some of them from a plain float32 loop."""
    work = Path(job["work"])
    work.mkdir(parents=True, exist_ok=True)
    model = work / MODEL
    if not (model / "config.json").exists():
        backbone = Encoder.load(job["model"], device="cpu", dtype="float32").backbone
        backbone.tokenizer.chat_template = None
        if job["layers"]:
            decoder(backbone.model).layers = decoder(backbone.model).layers[: job["layers"]]
            backbone.model.config.num_hidden_layers = job["layers"]
        # What every other program can pool: the last layer at the last token.
        settings = EncoderSettings(passage_max_tokens=_LONGEST, query_max_tokens=_LONGEST)
        Encoder.from_backbone(backbone, _PROMPTS, settings).save(model)
    encoder = Encoder.load(model, device="cpu", dtype="float32")
    missing = {}
    for name, write in _formats(model, encoder, work).items():
        # Each program has errors of its own; what it cannot do ends as a row that says so.
        try:
            write()
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    source = _write_texts(job, encoder, work)
    write_json(work / FACTS, {**_facts(encoder), "texts": source, "checked": job["checked"], "missing": missing})


def _formats(model: Path, encoder: Encoder, work: Path) -> dict[str, Callable[[], object]]:
    """Return what writes each format, by the name of its file or folder."""
    found: dict[str, Callable[[], object]] = {
        "onnx": lambda: export_encoder(model, work / "onnx"),
        "onnx-int8": lambda: export_encoder(model, work / "onnx-int8", quantize="int8"),
        "openvino": lambda: _write_openvino(encoder, work / "openvino"),
        "openvino-int8": lambda: _write_openvino_int8(work / "openvino", work / "openvino-int8"),
    }
    for name in GGUF:
        found[f"{name}.gguf"] = lambda name=name: _write_gguf(encoder, work / f"{name}.gguf", name)  # type: ignore[misc]
    return found


def _write_gguf(encoder: Encoder, path: Path, name: str) -> None:
    if not path.exists():
        # Two of the formats are none that `llama2vec export` offers.
        FILE_TYPES[name] = GGUF[name]
        write_gguf(encoder, path.with_suffix(".part"), name)
        path.with_suffix(".part").rename(path)


class LastToken(torch.nn.Module):
    """Ids and mask [B, L], padded on the right → unit vectors [B, D]; OpenVINO cannot convert the ONNX export."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.body = decoder(encoder.backbone.model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the vectors."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        last = hidden[torch.arange(hidden.shape[0]), attention_mask.sum(dim=1) - 1]
        return torch.nn.functional.normalize(last, dim=-1)


def _write_openvino(encoder: Encoder, folder: Path) -> None:
    if (folder / "model.xml").exists():
        return
    import openvino

    ids = torch.arange(21).remainder(encoder.backbone.model.get_input_embeddings().weight.shape[0]).view(3, 7)
    with torch.no_grad():
        found = openvino.convert_model(LastToken(encoder).eval(), example_input=(ids, torch.ones_like(ids)))
    openvino.save_model(found, folder / "model.xml", compress_to_fp16=False)


def _write_openvino_int8(source: Path, folder: Path) -> None:
    if (folder / "model.xml").exists():
        return
    import nncf
    import openvino

    found = nncf.compress_weights(
        openvino.Core().read_model(source / "model.xml"), mode=nncf.CompressWeightsMode.INT8_SYM
    )
    openvino.save_model(found, folder / "model.xml", compress_to_fp16=False)


def _write_texts(job: dict[str, Any], encoder: Encoder, work: Path) -> str:
    """Write texts with their numbers of tokens, prompts left out, and the true vectors of the first ones."""
    tokenizer = encoder.backbone.tokenizer
    prompt = len(token_ids([""], tokenizer)[0])
    source, texts = "", {}
    for length in job["lengths"]:
        # More than are kept: where a text and the prompt share a token, sentence-transformers would read other ids.
        source, found = texts_of_length(Path(job["data"]), tokenizer, length, _TEXTS * 5 // 4)
        rows, joined = token_ids(found, tokenizer), tokenizer(prompted(found, tokenizer))["input_ids"]
        alike = [(text, row) for text, row, other in zip(found, rows, joined, strict=True) if row == other]
        texts[length] = [[text, len(row) - prompt] for text, row in alike[:_TEXTS]]
        found = [text for text, _ in texts[length]]
        kept = work / f"reference-{length}.npy"
        if not kept.exists():
            np.save(kept, true_vectors(encoder, found[: job["checked"]]))
    write_json(work / TEXTS, texts)
    return source


@torch.inference_mode()
def true_vectors(encoder: Encoder, texts: list[str]) -> np.ndarray[Any, Any]:
    """Return [N, D] from one text at a time: the last hidden state at the last token, normalized in float32."""
    body, vectors = decoder(encoder.backbone.model), []
    for row in token_ids(texts, encoder.backbone.tokenizer):
        hidden = body(input_ids=torch.tensor([row])).last_hidden_state
        vectors.append(torch.nn.functional.normalize(hidden[0, -1].float(), dim=-1).numpy())
    return np.stack(vectors)


def _facts(encoder: Encoder) -> dict[str, Any]:
    config, tokenizer = encoder.backbone.model.config, encoder.backbone.tokenizer
    return {
        "prompt_tokens": len(token_ids([""], tokenizer)[0]),
        "prompt": f"{_PROMPTS.self_prompt}{tokenizer.eos_token}",
        "weights": non_embedding_parameters(encoder.backbone.model),
        "layers": int(config.num_hidden_layers),
        "native_bfloat16": cpu_has_bfloat16(),
    }


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("job", type=Path, help="JSON file that names the folder, the model and the texts")
    prepare(json.loads(options.parse_args().job.read_text(encoding="utf-8")))
