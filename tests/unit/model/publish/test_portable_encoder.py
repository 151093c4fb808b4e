"""Saved encoders in sentence-transformers: the same vectors, with this package and without it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import FLOAT32
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from two_threads import assert_threads_agree

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, ModelSettings
from llama2vec.errors import GoldenVectorsError
from llama2vec.manifest import digest
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import load_golden
from llama2vec.model.publish import portable_encoder, portable_files
from llama2vec.model.publish.portable_encoder import PortableEncoder

LIMITS = {"query_prompt": "next", "query_max_tokens": 9, "passage_max_tokens": 30}

# name → architecture, recipe, settings
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama-paper": ("llama", "paper", {}),
    "llama-released": ("llama", "released", {}),
    "llama-paper-layers": ("llama", "paper", {"layers": 3}),
    "llama-released-layers": ("llama", "released", {"layers": 3}),
    "llama-mean": ("llama", "paper", {"pooling": "mean", "layers": 2}),
    "gpt2-paper": ("gpt2", "paper", {"layers": 3}),
    "gpt2-released": ("gpt2", "released", {}),
    "gemma-paper": ("gemma", "paper", {}),
    "llama-repllama": ("llama", "repllama", {}),
    "llama-one-word": ("llama", "one-word", {}),
}

WITHOUT_LLAMA2VEC = """
    import json, sys
    from importlib.abc import MetaPathFinder

    class Nowhere(MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "llama2vec":
                raise ImportError("llama2vec is not installed")

    sys.meta_path.insert(0, Nowhere())
    import numpy as np
    from sentence_transformers import SentenceTransformer

    try:
        import llama2vec
    except ImportError:
        pass
    else:
        raise SystemExit("llama2vec could be imported")
    task = json.load(open(sys.argv[1], encoding="utf-8"))
    found = {}
    for name, folder in task["folders"].items():
        model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
        found[f"{name} query"] = model.encode_query(task["texts"])
        found[f"{name} passage"] = model.encode_document(task["texts"])
    assert not [name for name in sys.modules if name.partition(".")[0] == "llama2vec"]
    np.savez(task["output"], **found)
"""


@pytest.fixture(scope="module")
def texts(sentences: list[str]) -> list[str]:
    """Empty, a word, beyond every limit, beyond ASCII, white space, what looks like a prompt, and ordinary ones."""
    hard = ["", "river", " ".join(sentences[:8]), "Straße 東京 Привет 🦙", "  \n ", "</s> The original sentence: "]
    return [*hard, *sentences[20:26]]


@pytest.fixture(scope="module")
def encoders(
    save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Encoder, Path]]:
    """Every variant: the encoder, and the folder it was saved to."""
    home = tmp_path_factory.mktemp("portable")
    made = {}
    for name, (kind, recipe, settings) in VARIANTS.items():
        depth = {"n_layer": 4} if kind == "gpt2" else {"num_hidden_layers": 4}
        base = save_model(home / "base" / name, kind, **depth)
        encoder = Encoder.load(
            base,
            settings=FLOAT32,
            prompts=PROMPT_RECIPES[recipe],
            encoder=EncoderSettings.model_validate({**LIMITS, **settings}),
        )
        made[name] = encoder, encoder.save(home / name)
    return made


@pytest.fixture(scope="module")
def saved(encoders: dict[str, tuple[Encoder, Path]]) -> Path:
    return encoders["llama-released-layers"][1]


def opened(folder: Path, **options: Any) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", **options)


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments], capture_output=True, text=True, timeout=300
    )


# ------------------------------------------------------------------------------------------------------- same vectors


@pytest.fixture(scope="module")
def elsewhere(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What a fresh process that has no llama2vec makes of copies of the folders."""
    home = tmp_path_factory.mktemp("elsewhere")
    folders = {name: str(shutil.copytree(folder, home / name)) for name, (_, folder) in encoders.items()}
    task = {"folders": folders, "texts": texts, "output": str(home / "vectors.npz")}
    (home / "task.json").write_text(json.dumps(task), encoding="utf-8")
    done = run_python(WITHOUT_LLAMA2VEC, str(home / "task.json"))
    assert done.returncode == 0, done.stderr
    return np.load(home / "vectors.npz")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_fresh_process_without_llama2vec_gives_the_encoders_vectors(
    encoders: dict[str, tuple[Encoder, Path]], elsewhere: Any, texts: list[str], name: str
) -> None:
    encoder, _ = encoders[name]
    np.testing.assert_allclose(elsewhere[f"{name} query"], encoder.encode_queries(texts), atol=1e-5, rtol=0)
    np.testing.assert_allclose(elsewhere[f"{name} passage"], encoder.encode_passages(texts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_sentence_transformers_beside_llama2vec_gives_the_encoders_vectors_in_any_batch(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str], name: str
) -> None:
    encoder, folder = encoders[name]
    queries, passages = encoder.encode_queries(texts), encoder.encode_passages(texts)
    model = opened(folder)
    for batch_size in (1, 3, 64):
        np.testing.assert_allclose(model.encode_query(texts, batch_size=batch_size), queries, atol=1e-5, rtol=0)
        np.testing.assert_allclose(model.encode_document(texts, batch_size=batch_size), passages, atol=1e-5, rtol=0)
    np.testing.assert_allclose(model.encode_document(texts[::-1]), passages[::-1], atol=1e-5, rtol=0)
    # The comparison says something only where the sides differ.
    assert name.startswith("llama-mean") or np.abs(queries - passages).max() > 1e-3


def test_encode_embeds_passages_unless_the_prompt_called_query_is_asked_for(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str]
) -> None:
    encoder, folder = encoders["llama-released-layers"]
    model = opened(folder)
    passages, queries = encoder.encode_passages(texts), encoder.encode_queries(texts)
    np.testing.assert_allclose(model.encode(texts), passages, atol=1e-5, rtol=0)
    np.testing.assert_allclose(model.encode(texts, prompt_name="document"), passages, atol=1e-5, rtol=0)
    np.testing.assert_allclose(model.encode(texts, prompt_name="query"), queries, atol=1e-5, rtol=0)
    np.testing.assert_allclose(model.encode(texts[1]), passages[1], atol=1e-5, rtol=0)
    with_title = encoder.encode_passages([f"Title: {text}" for text in texts])
    np.testing.assert_allclose(model.encode(texts, prompt="Title: "), with_title, atol=1e-5, rtol=0)
    # The mark itself, as part of a text, is a text like any other.
    marked = [f"{portable_encoder.QUERY_MARK}{texts[1]}"]
    np.testing.assert_allclose(model.encode(marked), encoder.encode_passages(marked), atol=1e-5, rtol=0)


def test_bfloat16_weights_are_pooled_in_float32(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str], tmp_path: Path
) -> None:
    _, folder = encoders["llama-released-layers"]
    half = ModelSettings(dtype="bfloat16", device="cpu")
    encoder = Encoder.load(folder, settings=half)
    encoder.save(tmp_path / "half")
    model = opened(tmp_path / "half")
    assert model.dtype == torch.bfloat16
    for text in texts:
        vector = model.encode_document([text])
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, encoder.encode_passages([text]), atol=1e-5, rtol=0)
    exact = opened(tmp_path / "half", model_kwargs={"dtype": torch.float32})
    expected = Encoder.load(tmp_path / "half", settings=FLOAT32).encode_queries(texts)
    np.testing.assert_allclose(exact.encode_query(texts), expected, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------- what sentence-transformers can ask for


def test_vectors_are_of_unit_length_similarity_is_the_cosine_and_truncation_cuts(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str]
) -> None:
    encoder, folder = encoders["llama-paper"]
    model = opened(folder)
    assert model.get_embedding_dimension() == encoder.dimension == 32
    queries, passages = encoder.encode_queries(texts), encoder.encode_passages(texts)
    np.testing.assert_allclose(model.similarity(queries, passages).numpy(), queries @ passages.T, atol=1e-5)
    assert model.similarity_fn_name == "cosine"
    short = opened(folder, truncate_dim=8)
    assert short.get_embedding_dimension() == 8
    np.testing.assert_allclose(short.encode_document(texts), passages[:, :8], atol=1e-5, rtol=0)


def test_a_thread_that_embeds_queries_does_not_cut_the_passages_of_another_one(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str]
) -> None:
    model = opened(encoders["llama-paper"][1])
    long = max(texts, key=len)
    rows = [lambda: model[0].preprocess([long], task="query"), lambda: model[0].preprocess([long], task="document")]
    assert_threads_agree(*(lambda read=read: read()["input_ids"].numpy() for read in rows), times=1000)
    assert model.tokenizer.backend_tokenizer.truncation is None


def test_token_embeddings_are_the_texts_and_the_prompts_tokens(saved: Path) -> None:
    model = opened(saved)
    found = model.encode(["river stone", "river"], output_value="token_embeddings")
    lengths = model[0].preprocess(["river stone", "river"])["attention_mask"].sum(dim=1).tolist()
    assert [len(tokens) for tokens in found] == lengths
    assert lengths[0] > lengths[1]


@pytest.mark.slow
def test_several_processes_give_the_same_vectors(encoders: dict[str, tuple[Encoder, Path]], texts: list[str]) -> None:
    encoder, folder = encoders["llama-released-layers"]
    model = opened(folder)
    # A model that was used before carries hooks of transformers.
    model.encode(texts[:2])
    pool = model.start_multi_process_pool(["cpu"])
    try:
        queries = model.encode_query(texts, pool=pool, chunk_size=5)
    finally:
        model.stop_multi_process_pool(pool)
    np.testing.assert_allclose(queries, encoder.encode_queries(texts), atol=1e-5, rtol=0)
    np.testing.assert_allclose(model.encode_query(texts), queries, atol=1e-5, rtol=0)


def test_max_seq_length_counts_the_prompt_and_moves_the_limits(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str], tmp_path: Path
) -> None:
    encoder, folder = encoders["llama-released"]
    prompt = len(encoder.contract.ids.prefix) + max(map(len, encoder.contract.ids.suffixes.values()))
    model = opened(folder)
    assert model.max_seq_length == 30 + prompt
    long = max(texts, key=len)
    for room, query_room in ((20, 9), (5, 5), (40, 5)):
        model.max_seq_length = room + prompt
        assert model.max_seq_length == room + prompt
        passage = model[0].preprocess([long], task="document")["input_ids"].shape[1]
        query = model[0].preprocess([long], task="query")["input_ids"].shape[1]
        suffixes = encoder.contract.ids.suffixes
        assert passage == len(encoder.contract.ids.prefix) + room + len(suffixes["self"])
        assert query == len(encoder.contract.ids.prefix) + query_room + len(suffixes["next"])
    model.save_pretrained(str(tmp_path / "other"))
    other = Encoder.load(tmp_path / "other", settings=FLOAT32)
    assert (other.contract.encoder.passage_max_tokens, other.contract.encoder.query_max_tokens) == (40, 5)
    np.testing.assert_allclose(model.encode_document(texts), other.encode_passages(texts), atol=1e-5, rtol=0)


def test_max_seq_length_stays_within_the_model_and_leaves_room_for_a_text(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = opened(saved)
    with caplog.at_level("WARNING"):
        model.max_seq_length = 8192
    assert model.max_seq_length == 256
    assert "cut from 8192 to 256" in caplog.text
    with pytest.raises(ValueError, match="no room for a text"):
        model.max_seq_length = 10
    assert model.max_seq_length == 256


# ------------------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("name", ["llama-released-layers", "gpt2-paper", "llama-mean"])
def test_what_sentence_transformers_saves_opens_in_both(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str], tmp_path: Path, name: str
) -> None:
    encoder, folder = encoders[name]
    model = opened(folder)
    model.encode_document(texts)
    model.save_pretrained(str(tmp_path / "again"))
    ours = Encoder.load(tmp_path / "again", settings=FLOAT32)
    assert ours.contract_hash == encoder.contract_hash
    np.testing.assert_array_equal(ours.encode_passages(texts), encoder.encode_passages(texts))
    with pytest.raises(GoldenVectorsError, match=r"no golden\.json: saved by sentence-transformers.* --write`"):
        load_golden(tmp_path / "again", ours.contract_hash)
    theirs = opened(tmp_path / "again")
    np.testing.assert_allclose(theirs.encode_query(texts), encoder.encode_queries(texts), atol=1e-5, rtol=0)
    for file in ("modules.json", "portable_encoder.py", "README.md"):
        assert (tmp_path / "again" / file).is_file()
    assert (tmp_path / "again" / "README.md").read_text() == (folder / "README.md").read_text()


def test_weights_trained_in_sentence_transformers_get_a_new_contract(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str], tmp_path: Path
) -> None:
    encoder, folder = encoders["llama-released"]
    model = opened(folder)
    features = model.preprocess(texts)
    loss = model(features)["sentence_embedding"][0].sum()
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= 0.5 * weight.grad
    model.save_pretrained(str(tmp_path / "trained"))
    trained = Encoder.load(tmp_path / "trained", settings=FLOAT32)
    assert trained.contract_hash != encoder.contract_hash
    vectors = trained.encode_passages(texts)
    assert np.abs(vectors - encoder.encode_passages(texts)).max() > 1e-3
    np.testing.assert_allclose(model.encode_document(texts), vectors, atol=1e-5, rtol=0)


def test_the_file_beside_the_weights_is_our_source_and_needs_nothing_of_llama2vec(saved: Path) -> None:
    source = Path(portable_encoder.__file__)
    assert (saved / "portable_encoder.py").read_bytes() == source.read_bytes()
    assert not re.search(r"^\s*(import|from) llama2vec", source.read_text(), flags=re.MULTILINE)
    settings = json.loads((saved / "config_sentence_transformers.json").read_text())
    assert settings["prompts"]["query"] == portable_encoder.QUERY_MARK
    assert json.loads((saved / "modules.json").read_text())[0]["type"] == "portable_encoder.PortableEncoder"


def test_hashes_and_fingerprints_are_those_of_the_encoder(encoders: dict[str, tuple[Encoder, Path]]) -> None:
    for _, folder in encoders.values():
        contract = json.loads((folder / "llama2vec.json").read_text())
        facts = portable_encoder._facts_of_files(folder)
        assert facts == {name: contract[name] for name in facts}
        assert set(facts) == {"format", "weights", "config", "tokenizer"}
    data = {"b": [1, "ü"], "a": {"x": None}}
    assert portable_encoder._digest(data) == digest(data)


def test_neither_contract_nor_fingerprint_depends_on_the_files_for_others(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str], tmp_path: Path
) -> None:
    encoder, folder = encoders["llama-released-layers"]
    old = Path(shutil.copytree(folder, tmp_path / "old"))
    for name in ("modules.json", "config_sentence_transformers.json", "portable_encoder.py", "README.md"):
        (old / name).unlink()
    again = Encoder.load(old, settings=FLOAT32)
    assert again.contract_hash == encoder.contract_hash
    np.testing.assert_array_equal(again.encode_passages(texts), encoder.encode_passages(texts))
    portable_files.write_sentence_transformers_files(old)
    np.testing.assert_allclose(opened(old).encode_query(texts), encoder.encode_queries(texts), atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_without_the_users_trust_sentence_transformers_runs_no_code_of_the_folder(saved: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(saved), device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / CONTRACT_FILE).unlink(), f"{CONTRACT_FILE} is missing"),
        (lambda folder: (folder / CONTRACT_FILE).write_text("[]"), "cannot be read as an encoding contract"),
    ],
)
def test_a_folder_with_gaps_is_refused_in_one_line(
    saved: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    change(folder)
    with pytest.raises(ValueError, match=message):
        PortableEncoder.load(str(folder))


def test_code_that_a_config_names_is_neither_run_nor_asked_about(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "strange", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    for options in ({}, {"model_kwargs": {"trust_remote_code": True}, "config_kwargs": {"trust_remote_code": True}}):
        with pytest.raises(ValueError, match=r"trust_remote_code|strange"):
            PortableEncoder.load(str(folder), **options)
    assert not (tmp_path / "ran").exists()


def test_a_contract_edited_by_hand_or_of_another_format_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    contract = json.loads((folder / CONTRACT_FILE).read_text())
    contract["encoder"]["passage_max_tokens"] = 3
    (folder / CONTRACT_FILE).write_text(json.dumps(contract))
    with pytest.raises(ValueError, match="edited by hand"):
        PortableEncoder.load(str(folder))
    contract.pop("hash")
    other = {**contract, "format": 3}
    (folder / CONTRACT_FILE).write_text(json.dumps({**other, "hash": digest(other)}))
    with pytest.raises(ValueError, match="contract format 3 is not 2; save the model again"):
        PortableEncoder.load(str(folder))


def test_other_backends_and_inputs_that_are_no_texts_are_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="backend='onnx' cannot pool slots"):
        PortableEncoder.load(str(saved), backend="onnx")
    with pytest.raises(ValueError, match="embeds strings; got tuple"):
        opened(saved).encode([("a", "b")])


@pytest.mark.parametrize("name", ["llama-released", "gpt2-paper", "llama-mean"])
def test_adapters_are_merged_into_what_is_saved_and_stay_in_the_model(
    encoders: dict[str, tuple[Encoder, Path]], texts: list[str], tmp_path: Path, name: str
) -> None:
    encoder, folder = encoders[name]
    model = opened(folder)
    targets = {"target_modules": ["c_attn"], "fan_in_fan_out": True} if name.startswith("gpt2") else {}
    model.add_adapter(LoraConfig(r=2, init_lora_weights=False, **{"target_modules": "all-linear", **targets}))
    vectors = model.encode_document(texts)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.save_pretrained(str(tmp_path / "trained"))
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert any(part.requires_grad for part in model.parameters())
    trained = Encoder.load(tmp_path / "trained", settings=FLOAT32)
    assert trained.contract_hash != encoder.contract_hash
    assert np.abs(vectors - encoder.encode_passages(texts)).max() > 1e-3
    np.testing.assert_allclose(trained.encode_passages(texts), vectors, atol=1e-5, rtol=0)
    np.testing.assert_allclose(opened(tmp_path / "trained").encode_document(texts), vectors, atol=1e-5, rtol=0)


def test_an_adapter_that_cannot_be_merged_is_named_and_nothing_is_saved(saved: Path, tmp_path: Path) -> None:
    model = opened(saved)
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["v_proj"]))
    with pytest.raises(ValueError, match=r"adapter at .*v_proj cannot be merged into the weights"):
        model[0].save(str(tmp_path / "trained"))
    assert not (tmp_path / "trained").exists()


def test_vectors_that_are_not_finite_are_refused_outside_training(saved: Path) -> None:
    model = opened(saved)
    with torch.no_grad():
        model[0].model.base_model.norm.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"not finite in float32; load it with .*'bfloat16'.* or 'float32'"):
        model.encode("river")
    model.train()
    assert not model(model.preprocess(["river"]))["sentence_embedding"].isfinite().all()


def test_weights_that_would_be_random_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if "down_proj" in key)
    whole = weights.pop(name)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights are missing: .*down_proj\.weight; take files that belong together"):
        PortableEncoder.load(str(folder))
    save_file({**weights, name: whole[:, :-1].contiguous()}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights are of another shape: .*down_proj\.weight"):
        PortableEncoder.load(str(folder))


def test_another_config_or_tokenizer_than_the_contracts_is_refused(saved: Path, tmp_path: Path) -> None:
    for number, (file, old, new) in enumerate(
        [
            ("config.json", '"rms_norm_eps"', '"rms_norm_epsilon"'),
            ("tokenizer.json", '"normalizer": null', '"normalizer": {"type": "Lowercase"}'),
        ]
    ):
        folder = Path(shutil.copytree(saved, tmp_path / str(number)))
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{file} is not the one that llama2vec\.json was made for; restore it"):
            PortableEncoder.load(str(folder))
