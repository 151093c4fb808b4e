"""Training and encoding at 7B shape on one GPU, as tokens per second and share of the GPU's peak (MFU).

    python -m benchmarks.speed.gpu --output benchmarks/results/gpu-h100.json

The model has the shape of LLaMA-2-7B and random weights, made on the device in bfloat16; the tokenizer gives one token
a word. Nothing is downloaded. Every measurement is written down as soon as it is made, and one that fails leaves its
error in its place. A step is tokenization, forward, backward, clipping and AdamW, without the Trainer.

The operations that count are those that the method needs: two a weight and token forward, two more for the gradients of
the inputs, and two more for those of the weights where every weight is trained; causal attention, and the head where it
is read. Padding, adapters and what is computed again do not count. Compiled layers are measured only where ``--only``
names them: compiling takes a minute. ``--shape tiny --device cpu`` tries the script out; ``--shape 135m --queries 512
--micro-batch 65536`` is SmolLM2-135M, whose small kernels a GPU waits for.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.provenance import made_by
from llama2vec.adapt.micro_batches import most_cells
from llama2vec.adapt.reading import JointReader
from llama2vec.adapt.settings import ObjectiveSettings
from llama2vec.adapt.train import PretextObjective
from llama2vec.config import EncoderSettings, LoraSettings, PromptSettings
from llama2vec.files import write_json
from llama2vec.finetune.batches import DrawnExamples
from llama2vec.finetune.settings import ContrastiveSettings, ExamplesSettings
from llama2vec.finetune.train import ContrastiveObjective
from llama2vec.model.adapters import add_lora
from llama2vec.model.backbone import Backbone
from llama2vec.model.encoder import Encoder
from llama2vec.model.prompt import prompt_ids
from llama2vec.model.source import ModelSource
from llama2vec.model.speed import fast_paths
from llama2vec.pretext.targets import TargetTokenizer
from llama2vec.processes import connect
from llama2vec.records import AdaptationExample, TrainingExample
from llama2vec.training.sharding import sharded

SHAPES: dict[str, dict[str, int]] = {
    "7b": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 32_000,
    },
    "135m": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49_152, "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": 1000,
    },
}  # fmt: skip
# Dense bfloat16 without sparsity, as NVIDIA's data sheets give it, by a part of the device's name.
_PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "4090": 165e12}
_WORDS = ("The original sentence: The next sentence:", "original", "next", "sentence", ":", "The")


def main() -> None:
    """Measure what is asked for, one after the other, within a time limit."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, required=True)
    options.add_argument(
        "--only",
        nargs="+",
        choices=list(MEASUREMENTS),
        default=[name for name in MEASUREMENTS if "compiled" not in name],
    )
    options.add_argument("--shape", choices=list(SHAPES), default="7b")
    options.add_argument("--device", default="cuda")
    options.add_argument("--seconds", type=float, default=4.0, help="of repeated steps in one measurement")
    options.add_argument("--limit", type=float, default=80.0, help="no measurement begins after this many seconds")
    options.add_argument("--adapt-length", type=int, default=512, help="tokens of a text in adapt")
    options.add_argument("--adapt-batch", type=int, default=16, help="texts of a step in adapt")
    options.add_argument("--queries", type=int, default=64, help="of a step in finetune")
    # Half of the default for a GPU, which at 7B's width would take 90 GB.
    options.add_argument(
        "--micro-batch", type=int, default=8192, help="cells of one pass in finetune, all of them held"
    )
    options.add_argument("--passages", type=int, default=1_000_000, help="vectors that exact search compares")
    arguments = options.parse_args()
    started = time.monotonic()
    bench = Bench(arguments)
    found: dict[str, Any] = {"settings": {**vars(arguments), "output": str(arguments.output)}, "device": bench.facts()}
    for name in arguments.only:
        begun = time.monotonic()
        if begun - started > arguments.limit:
            found[name] = {"skipped": f"{arguments.limit:.0f} seconds were over"}
        else:
            try:
                found[name] = MEASUREMENTS[name](bench)
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
                traceback.print_exc()
        found[name]["seconds_in_all"] = round(time.monotonic() - begun, 1)
        print(name, json.dumps(found[name]), flush=True)
        bench.free()
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output, {**found, **made_by(), "seconds": round(time.monotonic() - started, 1)})


class Bench:
    """The device, the tokenizer and the words of all measurements."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.device = arguments, torch.device(arguments.device)
        self.shape = SHAPES[arguments.shape]
        self.dtype = torch.bfloat16
        self.draw = random.Random(0)
        self.vocabulary = self.shape["vocab_size"] - 4
        self.tokenizer = one_token_a_word(self.vocabulary)

    def facts(self) -> dict[str, Any]:
        """Return the device's name, its peak by the data sheet and the rate of a large matrix product."""
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name() if cuda else "cpu"
        self.peak = next((peak for part, peak in _PEAKS.items() if part in name), 0.0)
        size = 8192 if cuda else 512
        left, right = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))
        seconds = self.timed(lambda: left @ right, at_most=1.0)
        self.rate = 2.0 * size**3 / min(seconds)
        return {"name": name, "peak_tflops": self.peak / 1e12, "matrix_product_tflops": round(self.rate / 1e12, 1)}

    def text(self, words: int) -> str:
        """Return a text of random words."""
        return " ".join(f"w{self.draw.randrange(self.vocabulary - len(_WORDS))}" for _ in range(words))

    def backbone(self, **model: Any) -> Backbone:
        """Return the model with random weights, made on the device."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            **self.shape, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0,
            attn_implementation="sdpa", **model,
        )  # fmt: skip
        before = torch.get_default_dtype()
        torch.manual_seed(0)
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                network = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(before)
        network.config.use_cache = False
        self.body = sum(weight.numel() for weight in network.model.layers.parameters())
        return Backbone(network.eval(), self.tokenizer, ModelSource("random", "random-weights"))

    def encoder(self, backbone: Backbone, *, query: int = 64, passage: int = 256) -> Encoder:
        """Wrap a model, with the default prompts."""
        settings = EncoderSettings(query_max_tokens=query, passage_max_tokens=passage)
        return Encoder.from_backbone(backbone, PromptSettings(), settings)

    def operations(self, lengths: Sequence[int], *, of_weights: float, of_attention: float) -> float:
        """Count the operations on texts: per weight and token, and causal attention, each as so many forward passes."""
        layers, width = self.shape["num_hidden_layers"], self.shape["hidden_size"]
        squares = sum(length * length for length in lengths)
        return of_weights * 2 * self.body * sum(lengths) + of_attention * 2 * layers * width * squares

    def timed(self, work: Callable[[], Any], *, at_most: float | None = None) -> list[float]:
        """Warm up once, then repeat for the time allowed, three times at least; return the seconds of each."""
        work()
        seconds: list[float] = []
        until = self.now() + (at_most or self.arguments.seconds)
        while len(seconds) < 3 or self.now() < until:
            begin = self.now()
            work()
            seconds.append(self.now() - begin)
        return seconds

    def now(self) -> float:
        """Return the time when the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def free(self) -> None:
        """Free the device's memory and reset its peak count."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def result(self, seconds: Sequence[float], tokens: int, operations: float, **more: Any) -> dict[str, Any]:
        """Return what is written down of a measurement: the median step."""
        step = float(np.median(seconds))
        rate = operations / step
        found = {
            "tokens_per_second": round(tokens / step),
            "step_seconds": round(step, 4),
            "steps": len(seconds),
            "tflops": round(rate / 1e12, 1),
            "mfu": round(rate / self.peak, 3) if self.peak else None,
            "share_of_matrix_product": round(rate / self.rate, 3),
            **more,
        }
        if self.device.type == "cuda":
            found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        return found


def one_token_a_word(vocabulary: int) -> Any:
    """Return a tokenizer of made-up words: ``w0``, ``w1`` … and those of the prompts."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *_WORDS, *(f"w{number}" for number in range(vocabulary - len(_WORDS)))]
    unknown = words[3]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def optimizer_step(model: Any) -> Callable[[], None]:
    """Return clipping and AdamW over what is trained."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def encode(bench: Bench) -> dict[str, Any]:
    """Encode passages of 64 to 256 tokens as ``llama2vec encode`` does."""
    encoder = bench.encoder(bench.backbone())
    count = 1024 if bench.device.type == "cuda" else 32
    texts = [bench.text(bench.draw.randint(64, 256)) for _ in range(count)]
    encoder.encode_passages(texts[:: max(1, count // 64)])
    seconds = bench.timed(lambda: encoder.encode_passages(texts))
    prompt = len(encoder.contract.ids.wrap([], "self", 1))
    lengths = [len(text.split()) + prompt for text in texts]
    operations = bench.operations(lengths, of_weights=1, of_attention=1)
    passages = round(count / float(np.median(seconds)), 1)
    return bench.result(seconds, sum(lengths), operations, passages_per_second=passages)


def adapt(
    bench: Bench,
    *,
    paths: str = "fast",
    full: bool = False,
    checkpointing: bool = False,
    fsdp: bool = False,
    four_bit: bool = False,
) -> dict[str, Any]:
    """Take steps of stage 1: joint sequences of texts of equal length, EBAE and EBAR.

    With LoRA a step is a whole one. ``full`` trains every weight, forward and backward alone and with half of the
    texts: the moments of AdamW need several GPUs. ``fsdp`` divides the model among a group of one process, which costs
    all of FSDP's copies and no transfer. ``four_bit`` trains adapters over weights in NF4 (QLoRA).
    """
    backbone = bench.backbone()
    if four_bit:
        quantize(backbone.model)
    model = backbone.model.train() if full else trainable(backbone, checkpointing=checkpointing)
    prompts = prompt_ids(backbone.tokenizer, PromptSettings())
    length, batch = bench.arguments.adapt_length, bench.arguments.adapt_batch // (2 if full else 1)
    objective = PretextObjective(
        TargetTokenizer(backbone.tokenizer, length, frozenset()), prompts, ObjectiveSettings(),
        JointReader(backbone.model.config, bench.dtype), 2, None, most_cells(0, bench.device.type),
    )  # fmt: skip
    pairs = [AdaptationExample(bench.text(length), bench.text(length)) for _ in range(batch)]

    with ExitStack() as stack:
        if paths != "stock":
            stack.enter_context(fast_paths(model, compiled=paths == "compiled"))
        if fsdp:
            connect(bench.device, alone_too=True)
            model = stack.enter_context(sharded(model, mixed=False, offload=False))
        update = model.zero_grad if full else optimizer_step(model)

        def step() -> None:
            loss, _ = objective.loss(model, objective.collate(pairs))
            loss.backward()
            update()

        seconds = bench.timed(step)
    around = len(prompts.prefix) + sum(map(len, prompts.suffixes.values()))
    lengths = [length + around] * batch
    operations = bench.operations(lengths, of_weights=3 if full else 2, of_attention=3)
    operations += 3 * 2 * 2 * prompts.slots * batch * bench.shape["hidden_size"] * bench.shape["vocab_size"]
    how = {"paths": paths, "checkpointing": checkpointing, "full": full, "fsdp": fsdp, "four_bit": four_bit}
    return bench.result(seconds, sum(lengths), operations, **how)


def quantize(network: Any) -> None:
    """Replace the projections of the layers by their copies in 4 bits, as loading with model.quantization does."""
    import bitsandbytes

    for module in [*network.model.layers.modules()]:
        for name, child in module.named_children():
            if type(child) is torch.nn.Linear:
                found = bitsandbytes.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
                )
                weight = bitsandbytes.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
                found.weight = weight.to(child.weight.device)
                setattr(module, name, found)
    network.is_loaded_in_4bit = network.is_quantized = True


def finetune(bench: Bench, *, compiled: bool = False) -> dict[str, Any]:
    """Take steps of stage 2 with LoRA: queries of 16 tokens, a positive and three negatives of 128, gradient cache."""
    backbone = bench.backbone()
    encoder = bench.encoder(backbone, query=32, passage=128)
    model = trainable(backbone)
    queries = bench.arguments.queries if bench.device.type == "cuda" else 4
    cells = bench.arguments.micro_batch
    settings = ContrastiveSettings(negatives=3, micro_batch_tokens=cells, graph_tokens=cells)
    objective = ContrastiveObjective(encoder, settings, ExamplesSettings())
    rows = [
        TrainingExample(bench.text(16), (bench.text(128),), tuple(bench.text(128) for _ in range(3)))
        for _ in range(queries)
    ]
    drawn = DrawnExamples(rows, None, settings, 0)
    batch = objective.collate([drawn[row] for row in range(queries)])
    update = optimizer_step(model)

    def step() -> None:
        loss, _ = objective.loss(model, batch)
        loss.backward()
        update()

    with fast_paths(model, compiled=compiled):
        begun = bench.now()
        step()
        first = bench.now() - begun
        seconds = bench.timed(step)
    lengths = [len(ids) for ids in batch["batch"].sequences]
    held = min(1.0, objective.graph_tokens / sum(lengths))
    operations = bench.operations(lengths, of_weights=2, of_attention=3)
    return bench.result(
        seconds, sum(lengths), operations, queries=queries, read_twice=round(1 - held, 2), compiled=compiled,
        micro_batch=cells, first_step_seconds=round(first, 1),
        examples_per_second=round(queries / float(np.median(seconds)), 1),
    )  # fmt: skip


def trainable(backbone: Backbone, *, checkpointing: bool = False) -> Any:
    """Return the model with LoRA of the default rank, in training mode."""
    model = add_lora(backbone, LoraSettings(rank=16), [], 0)
    if checkpointing:
        model.enable_input_require_grads()
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    return model.train()


def search(bench: Bench) -> dict[str, Any]:
    """Search exactly, 1,000 queries, 100 results: on the device in blocks, and by FAISS's flat index on the CPU."""
    width = 4096 if bench.device.type == "cuda" else 64
    count = bench.arguments.passages if bench.device.type == "cuda" else 20_000
    generator = torch.Generator(bench.device).manual_seed(0)
    vectors = torch.empty(count, width, device=bench.device, dtype=torch.float16)
    for block in vectors.split(65_536):
        rows = torch.randn(len(block), width, device=bench.device, generator=generator)
        block.copy_(torch.nn.functional.normalize(rows))
    queries = torch.randn(1000, width, device=bench.device, generator=generator, dtype=torch.float32)
    queries = torch.nn.functional.normalize(queries)
    seconds = bench.timed(lambda: nearest(queries, vectors, 100), at_most=3.0)
    found: dict[str, Any] = {
        "vectors": count, "width": width, "queries_per_second": round(1000 / float(np.median(seconds)), 1),
        "bytes_a_vector": 2 * width,
    }  # fmt: skip
    try:
        import faiss
    except ImportError:
        return found | {"faiss": "not installed"}
    part = vectors[: min(count, 100_000)].float().cpu().numpy()
    index = faiss.IndexFlatIP(width)
    index.add(part)
    asked = queries[:100].cpu().numpy()
    _, expected = index.search(asked, 10)
    _, rows = nearest(queries[:100], vectors[: len(part)], 10)
    seconds = bench.timed(lambda: index.search(asked, 100), at_most=3.0)
    rate = 100 / float(np.median(seconds))
    same = float((rows.cpu().numpy() == expected).mean())
    return found | {
        "faiss_flat_cpu": {
            "vectors": len(part), "threads": faiss.omp_get_max_threads(), "queries_per_second": round(rate, 1),
            "queries_per_second_over_all_vectors": round(rate * len(part) / count, 2), "same_top_10": round(same, 4),
        }
    }  # fmt: skip


def nearest(queries: torch.Tensor, vectors: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and rows [Q, depth] of the nearest vectors; one block of vectors is scored at a time."""
    scores = queries.new_full((len(queries), 0), 0.0)
    rows = torch.zeros((len(queries), 0), dtype=torch.long, device=queries.device)
    half = queries.to(vectors.dtype)
    for start in range(0, len(vectors), 131_072):
        found, places = (half @ vectors[start : start + 131_072].T).float().topk(min(depth, len(vectors) - start))
        joined = torch.cat([scores, found], dim=1)
        scores, kept = joined.topk(min(depth, joined.shape[1]))
        rows = torch.cat([rows, places + start], dim=1).gather(1, kept)
    return scores, rows


MEASUREMENTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "adapt": adapt,
    "encode": encode,
    "finetune": finetune,
    "search": search,
    "adapt-full": lambda bench: adapt(bench, full=True),
    "adapt-checkpointing": lambda bench: adapt(bench, checkpointing=True),
    "adapt-fsdp": lambda bench: adapt(bench, fsdp=True),
    "adapt-qlora": lambda bench: adapt(bench, four_bit=True),
    "adapt-stock": lambda bench: adapt(bench, paths="stock"),
    "adapt-compiled": lambda bench: adapt(bench, paths="compiled"),
    "finetune-compiled": lambda bench: finetune(bench, compiled=True),
}


if __name__ == "__main__":
    main()
