"""Both sides of one training: the authors' scripts in their environment, and ours from the published recipes."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.paths import REPOSITORY
from llama2vec.adapt import train as adaptation
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.stage import adapt_model
from llama2vec.config import load_config
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.examples.unlabeled import adaptation_examples
from llama2vec.files import write_json
from llama2vec.finetune import train as finetuning
from llama2vec.finetune.batches import ContrastiveOrder, DrawnExample
from llama2vec.finetune.contract import resolve_contract
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.finetune.stage import finetune_model
from llama2vec.model.encoder import Encoder
from llama2vec.shipped import find_recipe
from llama2vec.training.saving import make_trainable
from llama2vec.training.state import read_log

AUTHORS_SIDE = Path(__file__).with_name("authors_side.py")
STOP_WORDS = REPOSITORY / "src" / "llama2vec" / "data" / "text" / "stop_words_nltk.txt"
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
VOCABULARY = 1600
CUTOFF = 128  # Longest sequence of stage 1 in tokens, as in the example of their README
QUERIES = 2  # Queries a step in stage 2; their toy data has 11
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """Both sides of one training, step by step."""

    training: str
    learning_rate: float
    rows: int
    rows_with_the_same_tokens: int
    losses: dict[str, list[float]]  # "ours" and "theirs", in nats
    gradient_norms: dict[str, list[float]]  # Before clipping
    largest_loss_difference: float  # Over all steps; relative where the value is above 1, as in the next line
    largest_norm_difference: float
    largest_weight_difference: float  # Between the trained weights
    largest_weight_change: float  # What the training itself changed, to compare with

    @property
    def agrees(self) -> bool:
        """Whether tokens, losses and gradient norms are the same."""
        same = self.rows == self.rows_with_the_same_tokens
        return same and max(self.largest_loss_difference, self.largest_norm_difference) <= TOLERANCE


class Sides:
    """A working folder with the tiny model, and what both sides share."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.checkout = Path(options.checkout).resolve()
        self.toys = self.checkout / "research" / "LLARA" / "data"
        self.model = folder / "model"
        self.versions: dict[str, str] = {}
        self.stop_words = ""
        self.seen: dict[str, Any] = {}  # What their side read in the last training of each stage

    def theirs(self, stage: str, processes: int = 1, **job: Any) -> dict[str, Any]:
        """Run one job of ``authors_side.py`` in their environment; return what the first process wrote down.

        ``batches`` are those of all processes, those of each step together.
        """
        path = self.folder / f"{stage}.json"
        shared = {"stage": stage, "checkout": str(self.checkout), "stop_words": str(STOP_WORDS)}
        write_json(path, {**shared, "seed": self.options.seed, **job})
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        # By its path: their environment has neither llama2vec nor this folder's packages, and its script needs none.
        command = [self.options.python, *(launcher if processes > 1 else []), str(AUTHORS_SIDE), str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"their side failed at {stage}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        written = [path.with_name(f"{stage}-{rank}.json") for rank in range(processes)]
        results: list[dict[str, Any]] = [json.loads(one.read_text(encoding="utf-8")) for one in written]
        first = results[0]
        self.versions, self.stop_words = first["versions"], first.get("stop_words", self.stop_words)
        batches = zip(*(result.get("batches", []) for result in results), strict=True)
        return {**first, "batches": [batch for step in batches for batch in step]}

    def make_model(self, texts: Sequence[str]) -> None:
        """Save the model that both sides start from."""
        self.model.mkdir()
        tokenizer = str(Path(self.options.tokenizer).resolve()) if self.options.tokenizer else ""
        made = {"output": str(self.model), "tokenizer": tokenizer, "texts": list(texts)}
        self.theirs("model", **made, vocabulary=VOCABULARY, config=TINY)

    def train_theirs(
        self, stage: str, rows: Path, learning_rate: float, processes: int = 1, **more: object
    ) -> dict[str, Any]:
        """Run one of their scripts, with the settings that both stages share and ``more``."""
        given: dict[str, object] = {
            "output_dir": self.folder / f"theirs-{stage}", "model_name_or_path": self.model, "train_data": rows,
            "cache_path": self.folder / "cache", "cache_dir": self.folder / "cache", "learning_rate": learning_rate,
            "num_train_epochs": 1, "dataloader_drop_last": True, "logging_steps": 1, "save_strategy": "no",
            "use_flash_attn": False, "use_lora": False, "warmup_ratio": 0.1, "lr_scheduler_type": "linear",
            "use_cpu": True, "report_to": "none", "overwrite_output_dir": True, **more,
        }  # fmt: skip
        arguments = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        self.seen[stage] = self.theirs(stage, processes, arguments=arguments)
        return self.seen[stage]

    def local_model(self) -> list[str]:
        """Return the overrides that choose the tiny model, in float32."""
        return [f"model.name={json.dumps(str(self.model))}", "model.dtype=float32", "model.device=cpu"]


def largest_gap(values: Mapping[str, Sequence[float]]) -> float:
    """Return the largest difference of any step, relative to values above 1; infinity if one side made more steps.

    >>> largest_gap({"ours": [0.5, 200.0], "theirs": [0.25, 100.0]}), largest_gap({"ours": [1.0], "theirs": []})
    (1.0, inf)
    """
    ours, theirs = values["ours"], values["theirs"]
    if len(ours) != len(theirs):
        return float("inf")
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(ours, theirs, strict=True))


def compared(
    training: str, learning_rate: float, log: Path, found: Mapping[str, Any], same: Sequence[bool],
    weights: tuple[float, float],
) -> Comparison:  # fmt: skip
    """Compare the log of our training with the record of theirs."""
    lines = [line for line in read_log(log) if "gradient_norm" in line]
    losses = {"ours": [line["loss"] for line in lines], "theirs": found["losses"]}
    norms = {"ours": [line["gradient_norm"] for line in lines], "theirs": found["gradient_norms"]}
    gaps = largest_gap(losses), largest_gap(norms)
    return Comparison(training, learning_rate, len(same), sum(same), losses, norms, *gaps, *weights)


def weight_differences(ours: Path, theirs: Path, start: Path | None) -> tuple[float, float]:
    """Return the largest difference of any weight between two saved files, and between ours and the start.

    Without a start the files hold LoRA adapters, whose second matrices start from zero.
    """
    from safetensors.torch import load_file

    first, second = load_file(ours), load_file(theirs)
    if first.keys() != second.keys():
        raise SystemExit(f"the saved weights have other names: {sorted(first.keys() ^ second.keys())[:3]}")
    if start is None:
        changes = [first[name].abs().max().item() for name in first if ".lora_B." in name]
    else:
        before = load_file(start)
        changes = [(first[name] - before[name]).abs().max().item() for name in first]
    return max((first[name] - second[name]).abs().max().item() for name in first), max(changes)


def pretrain_rows(texts: Sequence[str], count: int, words: tuple[int, int], seed: int) -> list[dict[str, str]]:
    """Cut texts into pieces of ``words`` words, and make rows of the authors' kind of each piece and the next one."""
    draw, every = random.Random(seed), " ".join(texts).split()
    pieces, start = [], 0
    while start < len(every) and len(pieces) <= count:
        size = draw.randint(*words)
        pieces.append(" ".join(every[start : start + size]))
        start += size
    if len(pieces) <= count:
        raise SystemExit(f"the texts give {len(pieces) - 1} rows and {count} are needed; lower --steps or --batch-size")
    return [{"input": text, "output_summarize": text, "output_predict": after} for text, after in pairwise(pieces)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def adaptation_config(sides: Sides, rows: Path, learning_rate: float) -> AdaptConfig:
    """Return ``published-released`` on these rows; what is not named here is the recipe's own."""
    chosen = sides.options
    return load_config(AdaptConfig, "published-released", [
        *sides.local_model(), f"text.corpus={json.dumps(str(rows))}", f"text.max_tokens={CUTOFF}",
        f"optimizer.steps={chosen.steps}", f"optimizer.batch_size={chosen.batch_size}", "optimizer.accumulation=1",
        f"optimizer.learning_rate={learning_rate}", "optimizer.log_every=1", f"optimizer.seed={chosen.seed}",
        "encoder.passage_max_tokens=160",
    ])  # fmt: skip


def compare_adaptation(sides: Sides, rows: Sequence[Mapping[str, str]], learning_rate: float) -> Comparison:
    """Stage 1: both sides learn from the same rows, in the order that ours draws."""
    path = write_rows(sides.folder / "rows.jsonl", rows)
    config = adaptation_config(sides, path, learning_rate)
    examples, _ = adaptation_examples(read_passages(path), config.text)
    _, _, objective, _ = adaptation._prepare(config, examples)
    order = list(objective.order(examples, config.optimizer))
    found = sides.train_theirs(
        "pretrain", write_rows(sides.folder / "ordered.jsonl", [rows[row] for row in order]), learning_rate,
        cutoff_len=CUTOFF, remove_stop_words=True, gradient_checkpointing=True,
        per_device_train_batch_size=sides.options.batch_size,
    )  # fmt: skip
    prompts, same = objective.prompts, []
    batches = (zip(one["rows"], one["self"], one["next"], strict=True) for one in found["batches"])
    for row, theirs in zip(order, (row for batch in batches for row in batch), strict=True):
        text, after = objective.tokenize([examples[row].text, examples[row].next_text])
        ids = [*prompts.prefix, *text.ids, *prompts.suffixes["self"], *prompts.suffixes["next"]]
        same.append(theirs == (ids, sorted(text.targets), sorted(after.targets)))
    output = sides.folder / f"ours-pretrain-{learning_rate}"
    adapt_model(config, output)
    weights = "model.safetensors"
    differences = weight_differences(
        output / weights, sides.folder / "theirs-pretrain" / weights, sides.model / weights
    )
    sides.seen["prompts"] = {"prefix": prompts.prefix, **prompts.suffixes}
    return compared("stage 1", learning_rate, output / "log.jsonl", found, same, differences)


def finetuning_config(sides: Sides, rows: Path, *, lora: bool, processes: int = 1) -> FinetuneConfig:
    """Return the stage-2 settings of ``run-published-msmarco``, with the released prompts.

    With LoRA, its dropout alone is switched off: both sides draw other random numbers. Instead of several processes,
    ours reads the joined batch; theirs clips a gradient that is divided by their number.
    """
    recipe = tomllib.loads(find_recipe(Path("run-published-msmarco")).read_text(encoding="utf-8"))
    settings = dict(recipe["finetune"])
    settings["model"] = {"lora": {**settings["model"]["lora"], "dropout": 0.0} if lora else {"rank": 0}}
    settings["encoder"] = {**recipe["encoder"], **settings["encoder"]}
    overrides = [
        f"{section}.{key}.{name}={json.dumps(inner)}"
        if isinstance(value, dict)
        else f"{section}.{key}={json.dumps(value)}"
        for section, values in settings.items()
        for key, value in values.items()
        for name, inner in (value.items() if isinstance(value, dict) else [("", None)])
    ]
    return load_config(FinetuneConfig, None, [
        *overrides, *sides.local_model(), "prompts=released", f"data.sources={json.dumps(str(rows))}",
        f"contrastive.negatives={sides.options.negatives}", f"optimizer.batch_size={QUERIES * processes}",
        f"optimizer.max_grad_norm={processes}", "optimizer.log_every=1", f"optimizer.seed={sides.options.seed}",
    ])  # fmt: skip


@contextmanager
def frozen_slot_rows() -> Iterator[None]:
    """Train LoRA adapters alone: theirs leaves the rows of the slot tokens as they are."""

    def make(backbone: Any, settings: Any, _: Sequence[str], seed: int) -> Any:
        return make_trainable(backbone, settings, [], seed)

    with mock.patch.object(finetuning, "make_trainable", make):
        yield


def compare_finetuning(sides: Sides, *, lora: bool, processes: int = 1) -> Comparison:
    """Stage 2: their toy queries, each with as many negatives as a step takes, so that there is nothing to draw.

    With several processes, theirs divides the gradients by their number; the norms are multiplied by it here.
    """
    toys, negatives = read_rows(sides.toys / "finetune" / "toy_finetune_data.jsonl"), sides.options.negatives
    rows = [{"query": row["query"], "pos": row["pos"][:1], "neg": row["neg"][:negatives]} for row in toys]
    path = write_rows(sides.folder / "examples.jsonl", rows)
    config = finetuning_config(sides, path, lora=lora, processes=processes)
    drawn, _ = finetuning._read(config, None)
    order = list(ContrastiveOrder(drawn, config.optimizer.batch_size, sides.options.seed))
    shared = {"negatives_cross_device": True, "ddp_find_unused_parameters": False} if processes > 1 else {}
    found = sides.train_theirs(
        "finetune", write_rows(sides.folder / "ordered-examples.jsonl", [rows[row] for row in order]),
        config.optimizer.learning_rate, processes, use_lora=lora, lora_dropout=0.0, normlized=True,
        temperature=config.contrastive.temperature, query_max_len=64, passage_max_len=160,
        train_group_size=negatives + 1, per_device_train_batch_size=QUERIES, **shared,
    )  # fmt: skip
    found["gradient_norms"] = [norm * processes for norm in found["gradient_norms"]]
    same = same_texts(config, [drawn[row] for row in order], found["batches"])
    output = sides.folder / f"ours-finetune-{lora}-{processes}"
    with frozen_slot_rows():
        finetune_model(config, output)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    differences = weight_differences(
        output / "adapter" / name if lora else output / name,
        sides.folder / "theirs-finetune" / name,
        None if lora else sides.model / name,
    )
    label = "stage 2, LoRA" if lora else "stage 2, every weight"
    label += f", {processes} processes" if processes > 1 else ""
    return compared(label, config.optimizer.learning_rate, output / "log.jsonl", found, same, differences)


def same_texts(
    config: FinetuneConfig, drawn: Sequence[DrawnExample], batches: Sequence[Mapping[str, Any]]
) -> list[bool]:
    """Tell of each query of their batches whether it and its passages have the tokens that ours gives them."""
    backbone = finetuning._load_backbone(config.model)
    encoder = Encoder.from_backbone(backbone, *resolve_contract(config))
    objective = finetuning.ContrastiveObjective(encoder, config.contrastive, config.data)
    queries = [query for batch in batches for query in batch["query"]]
    passages = [passage for batch in batches for passage in batch["passage"]]
    same, group = [], len(passages) // len(queries)
    for place, (one, query) in enumerate(zip(drawn, queries, strict=False)):
        ours, theirs = objective._prompted(one.passages, "passage"), passages[place * group :][:group]
        # Theirs draws the negatives in another order.
        same.append(objective._prompted([one.query], "query") == [query] and sorted(ours) == sorted(theirs))
    return same
