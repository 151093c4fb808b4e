"""The model card: what a saved encoder is, how to use it anywhere, what made it and what decides a vector."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from llama2vec.errors import ContractError
from llama2vec.files import write_atomic
from llama2vec.model.backbone import SMOLLM2_HUB, SMOLLM2_NAME
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.publish.model_card_text import CITATION, LIMITATIONS, SENTENCE_TRANSFORMERS_USE, TRANSFORMERS_USE

CARD_FILE = "README.md"
CARD_MARK = "<!-- Written by llama2vec. Remove this line and the card is yours: it is not written over again. -->"
_MANIFEST = "manifest.json"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_KNOWN_LICENSES = {SMOLLM2_HUB: "apache-2.0"}

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from.

    Attributes:
        base: Hub id, or the name of the folder or file, of the LLM that all began with; "" = not known.
        license: Of the base, as the hub spells it; "" = not known.
        manifests: Of the training stages since, the oldest first.
    """

    base: str = ""
    license: str = ""
    manifests: tuple[Manifest, ...] = ()

    def followed_by(self, manifest: Manifest) -> Origin:
        """Return the origin of what one more stage made."""
        return replace(self, manifests=(*self.manifests, manifest))


def origin_of(name: str) -> Origin:
    """Follow the manifests of a model, and of the model that each stage began with, back to the base.

    Args:
        name: A saved encoder's folder, or whatever else loads a model.
    """
    manifests: list[Manifest] = []
    beside, seen = Path(), set[Path]()
    while True:
        folder = _local_model(name, beside)
        if folder is None or not (folder / CONTRACT_FILE).is_file():
            return Origin(_public_name(name), _license(name, folder), tuple(manifests))
        manifest = _read(folder / _MANIFEST)
        if not manifest or folder.resolve() in seen:
            # An encoder without a manifest names its base in its own card.
            card = _front_matter(folder / CARD_FILE)
            return Origin(str(card.get("base_model") or ""), str(card.get("license") or ""), tuple(manifests))
        manifests.insert(0, manifest)
        seen.add(folder.resolve())
        name, beside = str(manifest.get("settings", {}).get("model", {}).get("name", "")), folder.parent


def model_card(
    contract: Mapping[str, Any], origin: Origin, *, name: str, dimension: int, scores: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return the model card of a saved encoder as Markdown with the hub's front matter.

    Args:
        contract: Content of ``llama2vec.json``.
        origin: Where the model comes from.
        name: What loads it: hub id or folder; stands in the code.
        dimension: D, the width of a vector.
        scores: Reports that ``evaluate`` wrote as JSON.
    """
    title = name.rstrip("/").rpartition("/")[2] or name
    parts = [
        f"---\n{_front_matter_of(origin)}\n---\n{CARD_MARK}",
        f"# {title}",
        _introduction(origin, dimension),
        "## Use",
        SENTENCE_TRANSFORMERS_USE.format(name=name, dtype=contract["dtype"]),
        TRANSFORMERS_USE + _transformers_code(contract, name),
        "## What decides a vector",
        _contract_table(contract, dimension),
        "## Training",
        "\n\n".join(map(_stage, origin.manifests)) or "Not known: the folder has no manifest.",
        *(["## Scores", _score_table(scores)] if scores else []),
        "## Limitations",
        _limitations(contract, origin),
        "## Citation",
        CITATION,
    ]
    return "\n\n".join(parts) + "\n"


def write_model_card(
    folder: Path, *, name: str = "", origin: Origin | None = None, scores: Sequence[Mapping[str, Any]] = ()
) -> bool:
    """Write ``README.md`` into a saved encoder, unless there is one that somebody wrote or took over.

    Args:
        folder: The saved encoder.
        name: What loads it; "" = the folder's name.
        origin: Where it comes from; None = what its manifest says.
        scores: Reports that ``evaluate`` wrote as JSON.

    Returns:
        Whether the card was written.

    Raises:
        ContractError: The folder has no readable contract.
    """
    if is_own_card(folder / CARD_FILE):
        return False
    contract = _read(folder / CONTRACT_FILE)
    if not contract:
        raise ContractError(f"{folder}: there is no readable {CONTRACT_FILE}; give a model that llama2vec saved")
    text = model_card(
        contract,
        origin or origin_of(str(folder)),
        name=name or folder.resolve().name,
        dimension=int(AutoConfig.from_pretrained(folder).get_text_config().hidden_size),
        scores=scores,
    )
    write_atomic(folder / CARD_FILE, text.encode())
    return True


def is_own_card(path: Path) -> bool:
    """Tell whether there is a card that somebody wrote or took over."""
    return path.is_file() and CARD_MARK not in path.read_text(encoding="utf-8", errors="replace")


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; nothing where there is none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _local_model(name: str, beside: Path) -> Path | None:
    """Return the folder that a model's name means; a whole run may have moved since the name was written."""
    if not name or name == SMOLLM2_NAME:
        return None
    found = Path(name).expanduser()
    return next((path for path in (found, beside / found.name) if (path / "config.json").is_file()), None)


def _public_name(name: str) -> str:
    """Return a model's name without the folders of this machine."""
    if name == SMOLLM2_NAME:
        return SMOLLM2_HUB
    return name if _is_hub_id(name) else Path(name).name


def _is_hub_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def _license(name: str, folder: Path | None) -> str:
    if folder is None:
        return _KNOWN_LICENSES.get(_public_name(name), "")
    return str(_front_matter(folder / CARD_FILE).get("license") or "")


def _front_matter(path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub.repocard import metadata_load

    try:
        return metadata_load(path) or {}
    # No card, one that is no text or no YAML, or whose YAML is no mapping: somebody else's may be any of these.
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _front_matter_of(origin: Origin) -> str:
    from huggingface_hub import ModelCardData

    texts = [manifest.get("settings", {}).get("text", {}) for manifest in _of_stage(origin, "adapt")]
    languages = {str(text["language"]) for text in texts if text.get("language")}
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", "dense-retrieval", "llama2vec"],
        base_model=origin.base if _HUB_ID.fullmatch(origin.base) else None,
        license=origin.license or None,
        language=sorted(languages) or None,
    )
    return str(data.to_yaml())


def _of_stage(origin: Origin, stage: str) -> list[Manifest]:
    return [manifest for manifest in origin.manifests if manifest.get("stage") == stage]


def _introduction(origin: Origin, dimension: int) -> str:
    base = f"[{origin.base}](https://hf.co/{origin.base})" if _HUB_ID.fullmatch(origin.base) else f"`{origin.base}`"
    made_of = base if origin.base else "a causal LLM"
    stages = [str(manifest.get("stage")) for manifest in origin.manifests]
    how = {
        (False, False): "on the embedding prompts of Llama2Vec",
        (True, False): "by the unsupervised adaptation of Llama2Vec",
        (False, True): "by contrastive fine-tuning on the embedding prompts of Llama2Vec",
        (True, True): "by the unsupervised adaptation of Llama2Vec and contrastive fine-tuning",
    }[("adapt" in stages, "finetune" in stages)]
    license = f" The base model's license is `{origin.license}`." if origin.license else ""
    return (
        f"A dense retriever, made of {made_of} {how} ([arXiv 2312.15503](https://arxiv.org/abs/2312.15503)). It turns "
        f"queries and passages into unit vectors of {dimension} numbers; their similarity is the cosine.{license}"
    )


def _transformers_code(contract: Mapping[str, Any], name: str) -> str:
    """Return a few lines of plain transformers that give one text's vector."""
    settings, ids = contract["encoder"], contract["token_ids"]
    slots = settings["pooling"] == "slots"
    suffixes = {key: ids["suffixes"][key] for key in (settings["query_prompt"], settings["passage_prompt"]) if slots}
    pooled = f"state[0, -{ids['slots']}:]" if slots else f"state[0, {len(ids['prefix'])}:]"
    lines = [
        "```python",
        "import torch",
        "from torch.nn.functional import normalize",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'name = "{name}"',
        "tokenizer = AutoTokenizer.from_pretrained(name)",
        "model = AutoModelForCausalLM.from_pretrained(name).eval()",
        f"before = {ids['prefix']}",
        f"behind = {suffixes or {settings['query_prompt']: [], settings['passage_prompt']: []}}",
        "",
        "",
        "@torch.no_grad()",
        "def embed(text, prompt, max_tokens):",
        '    ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=max_tokens)["input_ids"]',
        "    output = model(torch.tensor([before + ids + behind[prompt]]), output_hidden_states=True)",
        f"    layers = [{pooled}.float().mean(dim=0) for state in output.hidden_states[-{settings.get('layers', 1)}:]]",
        "    vector = normalize(torch.stack([normalize(layer, dim=0) for layer in layers]).mean(dim=0), dim=0)",
        "    return vector",
        "",
        "",
        f'query = embed("How do bees find their way home?", "{settings["query_prompt"]}", '
        f"max_tokens={settings['query_max_tokens']})",
        f'passage = embed("Bees find their way by the sun.", "{settings["passage_prompt"]}", '
        f"max_tokens={settings['passage_max_tokens']})",
        "print(query @ passage)",
        "```",
    ]
    return "\n".join(lines)


def _contract_table(contract: Mapping[str, Any], dimension: int) -> str:
    prompts, settings, slots = contract["prompts"], contract["encoder"], contract["token_ids"]["slots"]
    wording = {"self": prompts["self_prompt"], "next": prompts["next_prompt"]}
    layers = settings.get("layers", 1)
    end = f"{slots} slot tokens" if prompts["slots"] else "the EOS token"
    rows: list[tuple[str, str]] = [("recipe", prompts["recipe"])]
    if settings["pooling"] == "slots":
        for side in ("query", "passage"):
            rows.append((f"behind a {side}", f"{_code(wording[settings[f'{side}_prompt']])}, then {end}"))
        pooling = "the last hidden state there" if slots == 1 else f"the mean of the {slots} last hidden states there"
    else:
        rows.append(("behind a text", "nothing"))
        pooling = "the mean of the last hidden states of the text's tokens"
    if prompts["prefix"]:
        rows.append(("in front of a text", _code(prompts["prefix"])))
    if layers > 1:
        pooling += f", for each of the last {layers} layers at unit length, and their mean"
    rows += [
        ("vector", f"{pooling}; {dimension} numbers, unit length, float32"),
        ("tokens of a query", f"{settings['query_max_tokens']}, the prompt comes on top"),
        ("tokens of a passage", f"{settings['passage_max_tokens']}, the prompt comes on top"),
    ]
    rows += [("weights", contract["dtype"]), ("contract", _code(contract["hash"]))]
    return _table(("", ""), rows)


def _stage(manifest: Manifest) -> str:
    settings, results = manifest.get("settings", {}), manifest.get("results", {})
    optimizer = settings.get("optimizer", {})
    lora = settings.get("model", {}).get("lora", {})
    titles = {"adapt": "### Adaptation (unsupervised)", "finetune": "### Fine-tuning (contrastive)"}
    rows = [
        ("data", _data(manifest)),
        ("steps", results.get("steps")),
        ("texts a step", optimizer.get("batch_size")),
        ("learning rate", optimizer.get("learning_rate")),
        ("trained", f"LoRA of rank {lora['rank']}, merged" if lora.get("rank") else "every weight"),
        *((name.replace("_", " "), f"{value:.4g}") for name, value in results.get("losses", {}).items()),
        ("seconds", results.get("seconds")),
        ("versions", ", ".join(f"{name} {number}" for name, number in manifest.get("versions", {}).items())),
        ("code", _code(str(manifest.get("code", "")))),
    ]
    table = _table(("", ""), [(key, str(value)) for key, value in rows if value not in (None, "")])
    return f"{titles.get(str(manifest.get('stage')), '### Training')}\n\n{table}"


def _data(manifest: Manifest) -> str:
    """Name the inputs without the folders of this machine, with their fingerprint."""
    settings = manifest.get("settings", {})
    sources = settings.get("data", {}).get("sources") or settings.get("text", {}).get("corpus") or []
    names = [sources] if isinstance(sources, str) else list(sources)
    shown = ", ".join(_code(name if name.startswith(("hf:", "ir:")) else Path(name).name) for name in names)
    prints = ", ".join(str(value)[:12] for value in manifest.get("inputs", {}).values())
    return f"{shown} (fingerprint {_code(prints)})" if prints else shown


def _score_table(scores: Sequence[Mapping[str, Any]]) -> str:
    """Put reports of both shapes, one system or several, into one table."""
    rows = []
    for report in scores:
        single = {str(report.get("system", "")): report.get("metrics", {})}
        systems: Mapping[str, Mapping[str, float]] = report.get("systems") or single
        for system, metrics in systems.items():
            intervals = report.get("intervals", {})
            bounds = intervals.get(system, {}) if "systems" in report else intervals
            for measure, value in metrics.items():
                low_high = bounds.get(measure)
                shown = f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else ""
                rows.append((str(report.get("task", "")), system, measure, f"{value:.3f}{shown}"))
    return _table(("Task", "System", "Measure", "Value [95 % interval]"), rows)


def _limitations(contract: Mapping[str, Any], origin: Origin) -> str:
    text = LIMITATIONS.format(**contract["encoder"])
    if origin.manifests and not _of_stage(origin, "finetune"):
        text += "\n- No label was used: expect less than from a retriever that was fine-tuned on queries with answers."
    if not origin.license:
        text += "\n- The base model's license is not stated here; look it up before you pass this model on."
    return text


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _code(text: str) -> str:
    """Show a text as code, with what cannot be seen written out: a line break as ``\\n``.

    >>> _code("\\nThe sentence: ")
    '`\\\\nThe sentence: `'
    """
    return f"`{json.dumps(text, ensure_ascii=False)[1:-1]}`"
