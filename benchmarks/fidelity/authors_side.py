"""The authors' side of ``authors.py``: runs their own scripts, in their own environment (transformers 4.41).

Started by ``authors.py`` as ``python authors_side.py JOB.json``, in a Python that has no llama2vec; therefore it
imports nothing of the benchmarks and starts by its path. Three jobs: make a tiny model with their slot tokens, run
``pretrain/run.py``, run ``finetune/run.py``. Their files are imported from the checkout as they are. Replaced from
outside: rows come in the order of the file, so that both sides read the same batches; LoRA starts from a seed of its
own; and each step is written down.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import zlib
from pathlib import Path
from typing import Any

SLOTS = [f"<s{number}>" for number in range(1, 17)]
SUFFIXES = {
    "self": '", summarize the above passage within eight words: <s1><s2><s3><s4><s5><s6><s7><s8>',
    "next": '", predict the following passage within eight words: <s9><s10><s11><s12><s13><s14><s15><s16>',
}
LENGTHS = {"self": 19, "next": 18}
"""Tokens of each suffix, which their ``modeling.py`` takes for granted; LLaMA-2's tokenizer gives as many."""


def train_tokenizer(folder: Path, texts: list[str], vocabulary: int) -> None:
    """Train a SentencePiece model of LLaMA-2's kind that splits the suffixes into as many tokens as LLaMA-2's does."""
    import sentencepiece

    words = '", predict the above following passage within eight words : summar ize'
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, *[words] * 2000, *["ize", "organized realize"] * 1000]),
        model_prefix=str(folder / "tokenizer"), vocab_size=vocabulary, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, num_threads=1,
        character_coverage=0.9995, max_sentence_length=100_000, minloglevel=2,
    )  # fmt: skip


def fill_weights(model: Any, seed: int) -> None:
    """Give each weight a number that follows from seed, name and place alone, the same with every version of torch."""
    import torch

    for name, weight in model.named_parameters():
        numbers = torch.arange(weight.numel()) + (zlib.crc32(f"{seed} {name}".encode()) << 20)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):  # A hash of 32 bits
            numbers = ((numbers ^ (numbers >> shift)) * factor) & 0xFFFFFFFF
        noise = ((numbers ^ (numbers >> 16)).double() / 2**31 - 1).view(weight.shape)
        # Larger than usual, so that attention matters in so narrow a model.
        weight.data.copy_(1 + 0.1 * noise if weight.dim() == 1 else 0.14 * noise)


def make_model(job: dict[str, Any]) -> dict[str, Any]:
    """Save a tiny Llama with the slot tokens, and its tokenizer in its slow and its fast form."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, LlamaTokenizerFast

    folder = Path(job["output"])
    origin = job["tokenizer"]
    if not origin:
        train_tokenizer(folder, job["texts"], job["vocabulary"])
    slow = LlamaTokenizer.from_pretrained(origin or folder, **({} if origin else {"legacy": False}))
    # As their run.py does it, but once, so that both sides start from the same rows.
    slow.add_special_tokens({"additional_special_tokens": SLOTS})
    for name, suffix in SUFFIXES.items():
        found = slow(suffix, add_special_tokens=False)["input_ids"]
        if len(found) != LENGTHS[name]:
            tokens = " ".join(slow.convert_ids_to_tokens(found))
            raise SystemExit(
                f"this tokenizer splits the {name} suffix into {len(found)} tokens ({tokens}) and their code expects "
                f"{LENGTHS[name]}; choose another tokenizer"
            )
    slow.save_pretrained(folder)
    LlamaTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(slow), bos_token_id=1, eos_token_id=2, **job["config"]))
    fill_weights(model, job["seed"])
    model.save_pretrained(folder)
    return {"vocabulary": len(slow)}


class Record:
    """What one of their trainings did."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.batches: list[dict[str, Any]] = []
        self.trainer: Any = None

    def watching(self, trainer_class: Any) -> Any:
        """Return their trainer with the rows in order, which writes down inputs and loss of each step."""
        from torch.utils.data import SequentialSampler

        record = self

        class InOrder(trainer_class):  # type: ignore[misc]
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                record.trainer = self

            def _get_train_sampler(self) -> Any:
                return SequentialSampler(self.train_dataset)

            def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
                record.batches.append(tokens_of(inputs))
                found = super().compute_loss(model, inputs, return_outputs)
                record.losses.append(float(found[0] if return_outputs else found))
                return found

        return InOrder

    def result(self) -> dict[str, Any]:
        """Return losses and gradient norms by step, and the tokens of each batch."""
        norms = [float(line["grad_norm"]) for line in self.trainer.state.log_history if "grad_norm" in line]
        return {"losses": self.losses, "gradient_norms": norms, "batches": self.batches}


def tokens_of(inputs: Any) -> dict[str, Any]:
    """Return the token ids of a batch without padding: rows and targets, or queries and passages."""
    if "query" in inputs:
        sides = {side: inputs[side] for side in ("query", "passage")}
        return {side: unpadded(found["input_ids"], found["attention_mask"]) for side, found in sides.items()}
    # Their loss drops the ids up to 2: the unknown token, which pads, BOS and EOS.
    targets = {
        name: [sorted({one for one in row if one > 2}) for row in inputs[f"output_{kind}_ids"].tolist()]
        for name, kind in (("self", "summarize"), ("next", "predict"))
    }
    return {"rows": unpadded(inputs["input_ids"], inputs["attention_mask"]), **targets}


def unpadded(values: Any, mask: Any) -> list[list[int]]:
    return [row[kept.bool()].tolist() for row, kept in zip(values, mask, strict=True)]


def provide_stop_words(path: Path) -> str:
    """Let ``nltk.corpus.stopwords`` find its data, or give it the words of a file; return which."""
    import nltk.corpus

    try:
        return f"NLTK's own, {len(nltk.corpus.stopwords.words('english'))} words"
    except LookupError:
        words = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        nltk.corpus.stopwords = type("Words", (), {"words": staticmethod(lambda _: list(words))})
        return f"{path.name}, {len(words)} words, because NLTK's data is not installed"


def seeded(make: Any, seed: int) -> Any:
    """Return a function that sets torch's seed and then calls another one."""
    import torch

    def call(*given: Any, **options: Any) -> Any:
        torch.manual_seed(seed)
        return make(*given, **options)

    return call


def run_training(job: dict[str, Any]) -> dict[str, Any]:
    """Run ``pretrain/run.py`` or ``finetune/run.py`` of the checkout."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(job["checkout"]) / "research" / "LLARA" / job["stage"]))
    extra = {"stop_words": provide_stop_words(Path(job["stop_words"]))} if job["stage"] == "pretrain" else {}
    sys.argv = ["run.py", *job["arguments"]]
    loading, run = importlib.import_module("load_model"), importlib.import_module("run")
    loading.get_peft_model = seeded(loading.get_peft_model, job["seed"])
    record = Record()
    name = "Trainer" if job["stage"] == "pretrain" else "BiTrainer"
    setattr(run, name, record.watching(getattr(run, name)))
    run.main()
    return {**record.result(), **extra}


def versions() -> dict[str, str]:
    """Return the versions of what decides their numbers."""
    from importlib.metadata import version

    names = ("torch", "transformers", "tokenizers", "sentencepiece", "accelerate", "peft", "datasets", "nltk")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("job", type=Path, help="JSON file of one job; its result is written beside it")
    path = options.parse_args().job
    job = json.loads(path.read_text(encoding="utf-8"))
    found = make_model(job) if job["stage"] == "model" else run_training(job)
    result = {**found, "versions": versions()}
    path.with_name(f"{path.stem}-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
