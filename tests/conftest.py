"""Tiny models, tokenizers and texts that are made on the spot: no test downloads anything."""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from running import CommandLine

# Read when huggingface_hub is imported: a test that asks the network fails at once instead of waiting.
os.environ["HF_HUB_OFFLINE"] = "1"
# Read when transformers is imported, here and in every process that a test starts: the code of saved encoders is copied
# into one folder of this run. Two folders would both hold a package transformers_modules, and the first one found would
# hide the other.
CODE_CACHE = tempfile.TemporaryDirectory(prefix="llama2vec-code-")
os.environ["HF_MODULES_CACHE"] = CODE_CACHE.name
# Read when torch is imported: test processes that run side by side (`pytest -n 2`) would wait for each other's threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts background jobs with Ctrl-C ignored, and the commands that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

SPECIAL = ["<pad>", "<s>", "</s>"]
WORDS = [
    "river",
    "stone",
    "bridge",
    "castle",
    "winter",
    "market",
    "harbour",
    "engine",
    "letter",
    "garden",
    "forest",
    "silver",
    "copper",
    "orchard",
    "temple",
    "village",
    "mountain",
    "lantern",
    "captain",
    "merchant",
    "painter",
    "kitchen",
    "window",
    "thunder",
    "valley",
    "cotton",
    "pepper",
    "saddle",
    "ladder",
]


def made_up_sentence(draw: random.Random, words: int = 9) -> str:
    return f"The {' '.join(draw.choice(WORDS) for _ in range(words))} of the {draw.choice(WORDS)}."


@pytest.fixture
def command_line(capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """Run the command line in this process: ``command_line("search", index)`` ends as ``Finished(code, out, err)``."""
    from running import CommandLine

    return CommandLine(capfd)


@pytest.fixture
def saved_meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str, str], None]:
    """Let another program replace a word in a file right after a command has taken the fingerprint of an input."""

    from llama2vec.data.corpus.steady import SteadyInputs

    def arm(file: Path, old: str, new: str) -> None:
        take = SteadyInputs.take

        def taken(self: SteadyInputs, source: str | Path, fingerprint: Callable[[], str]) -> str:
            found = take(self, source, fingerprint)
            file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
            return found

        monkeypatch.setattr(SteadyInputs, "take", taken)

    return arm


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """60 made-up English sentences, always the same."""
    draw = random.Random(0)
    return [made_up_sentence(draw) for _ in range(60)]


@pytest.fixture(scope="session")
def make_tokenizer(sentences: list[str]) -> Callable[..., Any]:
    """Return a maker of fast byte-pair tokenizers that write a leading space into the token, as most LLMs do."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def make(
        *, bos: bool = True, eos: bool = True, metaspace: bool = False, llama_2: bool = False, vocabulary: int = 120
    ) -> Any:
        tokenizer = Tokenizer(models.BPE(unk_token=None))
        if metaspace:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
            tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
        alphabet = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:\"'!?")
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=[*alphabet, *("▁" if metaspace else "ĠĊ")],
        )
        tokenizer.train_from_iterator(sentences, trainer)
        if bos:
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
            )
        if llama_2:
            # Its tokenizer.json writes the space mark in a normalizer, for each piece between special tokens.
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
        names = {"pad_token": "<pad>"} | ({"bos_token": "<s>"} if bos else {}) | ({"eos_token": "</s>"} if eos else {})
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)

    return make


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    """A tokenizer with BOS, EOS and padding; its own for every test, since slots may be added."""
    return make_tokenizer()


ARCHITECTURES = ("llama", "qwen3", "gemma", "mistral", "mistral_window", "gpt_neox", "gpt2")


def tiny_config(kind: str, vocabulary: int = 120, **changes: Any) -> Any:
    from transformers import GemmaConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen3Config

    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    common = {"vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **ids}
    grouped = {**common, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 256}
    old_names = {"vocab_size": vocabulary, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, **ids}
    made = {
        "llama": (LlamaConfig, grouped),
        "qwen3": (Qwen3Config, {**grouped, "head_dim": 8}),
        "gemma": (GemmaConfig, {**grouped, "head_dim": 8}),
        "mistral": (MistralConfig, {**grouped, "sliding_window": 200}),
        "mistral_window": (MistralConfig, {**grouped, "sliding_window": 6}),
        "gpt_neox": (GPTNeoXConfig, {**common, "intermediate_size": 48, "max_position_embeddings": 256}),
        "gpt2": (GPT2Config, old_names),
    }  # fmt: skip
    schema, values = made[kind]
    return schema(**{**values, **changes})


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """Return a maker of tiny random causal LMs whose attention is far from uniform."""
    import torch
    from transformers import AutoModelForCausalLM

    def make(
        kind: str = "llama", *, attention: str = "sdpa", vocabulary: int = 120, seed: int = 0, **changes: Any
    ) -> Any:
        torch.manual_seed(seed)
        config = tiny_config(kind, vocabulary, **changes)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.mul_(3)
        return model.eval()

    return make


@pytest.fixture(scope="session", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def save_model(make_model: Callable[..., Any], make_tokenizer: Callable[..., Any]) -> Callable[..., Path]:
    """Return a function that saves a tiny model with its tokenizer as a transformers folder."""

    def save(folder: Path, kind: str = "llama", **changes: Any) -> Path:
        make_model(kind, **changes).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def llama_folder(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Llama; read only."""
    return save_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tied_llama_folder(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Llama whose output head is its embedding table; read only."""
    return save_model(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


@pytest.fixture(scope="session")
def longrope_folder(make_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model whose rotary frequencies change beyond 32 tokens; read only."""
    import torch
    from transformers import AutoModelForCausalLM, Phi3Config

    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
        "long_factor": [1.5, 3.0, 6.0, 9.0], "original_max_position_embeddings": 32,
    }  # fmt: skip
    sizes = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    config = Phi3Config(
        **sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        original_max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, rope_parameters=rope,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
    folder = tmp_path_factory.mktemp("longrope")
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX export beside its encoder, ``encoder``: two prompts, eight slots, two layers, two limits; read only."""
    from encoders import encoder_for

    from llama2vec.config import PROMPT_RECIPES, EncoderSettings
    from llama2vec.model.publish.exporting import export_encoder

    home = tmp_path_factory.mktemp("exported")
    settings = EncoderSettings(query_prompt="next", query_max_tokens=24, passage_max_tokens=60, layers=2)
    encoder_for(save_model(home / "base"), PROMPT_RECIPES["released"], settings).save(home / "encoder")
    export_encoder(home / "encoder", home / "export")
    return home / "export"


@pytest.fixture(scope="session")
def corpus_rows() -> list[dict[str, str]]:
    """Six documents of four ordered passages each: ``doc0-000`` … ``doc5-003``."""
    draw = random.Random(1)
    return [
        {"_id": f"doc{document}-{number:03d}", "title": "", "text": " ".join(made_up_sentence(draw) for _ in range(3))}
        for document in range(6)
        for number in range(4)
    ]


@pytest.fixture(scope="session")
def corpus_file(corpus_rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus as JSONL; read only."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in corpus_rows), encoding="utf-8")
    return path
