"""A recipe for a whole run: its sections, what they share, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.pipeline.settings import UNLABELED, RunConfig

FOLDER = Path(__file__).parents[3] / "recipes"
RECIPES = [*sorted(FOLDER.glob("7b-*.toml")), *sorted(FOLDER.glob("run-*.toml"))]


def configured(*overrides: str) -> RunConfig:
    return load_config(RunConfig, None, overrides)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_run_recipe_is_valid_and_opens_with_its_command(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f" run {path.stem} " in text.splitlines()[0]
    config = load_config(RunConfig, path, ["corpus=CORPUS"])
    assert config.finetune
    assert config.index


def test_there_are_recipes_for_a_cpu_a_gpu_and_the_published_settings() -> None:
    published = ["run-published-msmarco-document", "run-published-msmarco"]
    large = ["7b-1x24gb-qlora", "7b-8x80gb-fsdp"]
    assert [path.stem for path in RECIPES] == [*large, "run-cpu-minutes", "run-one-gpu", *published]


PUBLISHED = sorted(FOLDER.glob("*published-*.toml"))
PASSAGES, DOCUMENTS = (FOLDER / f"run-published-{name}.toml" for name in ("msmarco", "msmarco-document"))


def commented(path: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Return section and key → value and comment of each setting; the comment of a section has the key ""."""
    found, section = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        setting, _, comment = line.partition("  # ")
        if line.startswith("["):
            section = setting
            found[section, ""] = "", comment
        elif "=" in line and not line.startswith("#"):
            key, _, value = setting.partition(" = ")
            found[section, key] = value, comment
    return found


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_value_of_a_published_recipe_has_its_source(path: Path) -> None:
    lines, shared = commented(path), commented(PASSAGES) if path == DOCUMENTS else {}
    assert len(lines) > 10
    for (section, key), (value, source) in lines.items():
        # The second of two lines shares the source above it; paths of data and what is scored are the reader's own.
        own = re.fullmatch(r"|corpus|sources|tasks|metrics|half|validate_every|passage_prompt|accumulation", key)
        # A recipe for documents says where it differs from that for passages, whose sources are its own.
        same = shared.get((section, key), ("", ""))[0] == value
        assert source or lines.get((section, ""), ("", ""))[1] or own or same, (section, key)


def test_the_recipe_for_documents_differs_from_that_for_passages_only_where_it_says_so() -> None:
    passages, documents = commented(PASSAGES), commented(DOCUMENTS)
    assert passages.keys() - documents.keys() == set()
    differing = {one for one in documents if documents[one][0] != passages.get(one, ("", ""))[0]}
    said = {one for one, (_, comment) in documents.items() if comment}
    assert differing == said


def test_the_published_recipes_hold_the_published_values() -> None:
    run = load_config(RunConfig, "run-published-msmarco")
    assert run.adapt
    assert run.mine
    assert run.finetune
    alone = [load_config(AdaptConfig, name) for name in ("published-paper", "published-released")]
    for one in (run.adapt, *alone):
        assert (one.optimizer.schedule, one.optimizer.warmup, one.optimizer.steps) == ("linear", 0.1, 10_000)
        assert (one.text.max_words, one.text.draw_lengths, one.text.max_tokens) == (500, False, 1024)
        assert (one.text.stop_words, one.objective.targets, one.text.held_out) == ("nltk", "words", 0.0)
        assert one.text.count_prompts
    assert [one.prompts.recipe for one in (run.adapt, *alone)] == ["paper-v2", "paper-v2", "released"]
    encoder, validation = run.finetune.encoder, run.finetune.validation
    assert (encoder.query_max_tokens, encoder.passage_max_tokens, encoder.count_prompt) == (64, 160, True)
    assert (run.mine.bm25, run.mine.last_rank, run.mine.choose) == (False, 200, "sample")
    assert (run.mine.max_share_of_positive, run.mine.near_duplicate, run.mine.margin) == (0, 0, 0)
    assert (validation.share, validation.keep_best) == (0, False)
    repllama = load_config(FinetuneConfig, "published-repllama")
    assert (repllama.model.lora.rank, repllama.optimizer.learning_rate) == (32, 1e-4)
    assert (repllama.prompts.prefix, repllama.prompts.next_prefix) == ("passage: ", "query: ")


def test_a_section_that_is_absent_or_false_is_not_run_and_true_means_the_defaults() -> None:
    config = configured("corpus=c", "adapt=true", "encode={}", "index=false")
    assert config.adapt is not None
    assert config.encode is not None
    assert (config.pairs, config.mine, config.finetune, config.index, config.evaluate) == (None,) * 5


def test_shared_sections_lie_under_those_of_the_stages() -> None:
    config = configured(
        "corpus=c", "model.lora.rank=8", "model.dtype=float32", "prompts=released", "encoder.passage_max_tokens=99",
        "adapt.model.lora.rank=0", "pairs.from_corpus=true", "finetune.model.lora.alpha=5",
    )  # fmt: skip
    assert config.adapt
    assert config.finetune
    assert (config.adapt.model.lora.rank, config.finetune.model.lora.rank) == (0, 8)
    assert (config.finetune.model.lora.alpha, config.adapt.model.dtype) == (5, "float32")
    assert config.adapt.prompts == config.finetune.prompts == config.prompts
    assert config.prompts.slots == 8
    assert config.finetune.encoder.passage_max_tokens == 99
    assert (config.adapt.encoder.query_prompt, config.finetune.encoder.query_prompt) == ("self", "next")


EVERYTHING = (
    "corpus=c",
    "adapt={}",
    "pairs={from_corpus=true, generated={}}",
    "mine=true",
    "finetune=true",
    "encode={}",
)


def languages(config: RunConfig) -> dict[str, str]:
    """Return section → language of all sections that have one."""
    found: dict[str, str] = {}

    def visit(part: object, path: str) -> None:
        if isinstance(part, dict):
            found.update({path: part["language"]} if path and "language" in part else {})
            for name, inner in part.items():
                visit(inner, f"{path}.{name}".lstrip("."))

    visit(config.model_dump(), "")
    return found


def test_one_language_lies_under_every_section_that_has_none_of_its_own() -> None:
    config = configured(
        *EVERYTHING,
        "index=true",
        'evaluate.tasks=["x.tsv"]',
        "language=de",
        "mine.language=fr",
        "finetune.pretext.weight=0.1",
    )
    found = languages(config)
    assert found.pop("mine") == "fr"
    assert found.pop("evaluate") == "en"  # The index decides
    assert set(found.values()) == {"de"}
    assert found.keys() == {
        "passages", "adapt.text", "pairs.from_corpus", "pairs.generated", "finetune.pretext", "index"
    }  # fmt: skip
    assert config.words_language == "de"
    assert configured('evaluate.tasks=["x.tsv"]', "language=de").words_language == "de"
    assert (
        configured(*EVERYTHING, "index.language=fr", 'evaluate.tasks=["x.tsv"]', "language=de").words_language == "fr"
    )
    unlabeled = configured(*UNLABELED, "corpus=c", "language=de", "finetune.pretext.weight=0")
    assert set(languages(unlabeled).values()) == {"de"}
    assert (unlabeled.mine, unlabeled.evaluate) == (None, None)


def test_without_a_language_for_the_run_nothing_is_written_below_it() -> None:
    config = configured(*UNLABELED, "corpus=c")
    assert config.language is None
    assert set(languages(config).values()) == {"en"}
    assert config.finetune
    assert "pretext" not in config.finetune.model_dump()


def test_a_language_that_does_not_exist_or_does_not_fit_the_stop_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="--set: language: 'german' is not an ISO 639 code"):
        configured("corpus=c", "adapt=true", "language=german")
    with pytest.raises(ConfigError, match=r"adapt\.text: stop_words = nltk is an English list and the language is de"):
        configured("corpus=c", "adapt.text.stop_words=nltk", "language=de")


def test_the_default_for_a_corpus_without_labels_adapts_makes_pairs_and_indexes() -> None:
    config = configured(*UNLABELED, "corpus=c")
    assert config.pairs
    assert config.pairs.from_corpus
    assert not config.pairs.sources
    assert all(section is not None for section in (config.adapt, config.finetune, config.encode, config.index))
    assert config.finetune
    assert (config.finetune.encoder.query_prompt, config.finetune.encoder.passage_prompt) == ("self", "self")
    assert config.index
    assert config.index.bm25


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adpt=true"], r"unknown key 'adpt'; did you mean 'adapt'\?"),
        (
            ["corpus=c", "adapt.optimizer.stepz=3"],
            r"unknown key 'adapt\.optimizer\.stepz'; did you mean 'adapt\.optimizer\.steps'\?",
        ),
        (["corpus=c", "adapt=true", "model.nme=x"], r"unknown key 'model\.nme'; did you mean 'model\.name'\?"),
        (
            ["corpus=c", "pairs.from_corpus.limt=3"],
            r"'pairs\.from_corpus\.limt'; did you mean 'pairs\.from_corpus\.limit'\?",
        ),
        (
            ['pairs.sources=[{source="x", splitt="a"}]'],
            r"'pairs\.sources\.0\.splitt'; did you mean 'pairs\.sources\.0\.split'\?",
        ),
        (["corpus=c", "finetune=true"], r"\[finetune\] needs what \[pairs\] makes"),
        (["corpus=c", "index=true"], r"\[index\] needs what \[encode\] makes"),
        (["adapt=true"], r"corpus is empty and adapt reads it; name a corpus in the recipe or with --corpus"),
        (["pairs={}"], r"no source of pairs; name sources, or write from_corpus = true"),
        (["corpus=c"], r"no stage to run"),
        (["corpus=c", "pairs.from_corpus=true", "mine.rounds=2"], r"rounds is 2, but no stage fine-tunes in between"),
        (["corpus=c", "adapt.model.name=other"], r"adapt\.model\.name: a run has one model; name it in \[model\]"),
        (
            ["corpus=c", "pairs.from_corpus=true", "finetune.data.sources=x"],
            r"finetune\.data: a run fine-tunes on what \[pairs\] reads",
        ),
        (
            ["corpus=c", "adapt=true", "pairs.from_corpus=true", "finetune.encoder.passage_max_tokens=7"],
            r"finetune\.encoder\.passage_max_tokens is 7 and the adapted encoder has 512",
        ),
        (
            ["corpus=c", "adapt=true", "pairs.from_corpus=true", "finetune.prompts=released"],
            r"finetune\.prompts: fine-tuning keeps the wording",
        ),
        (
            ["corpus=c", "pairs.from_corpus=true", "finetune.data.split=dev"],
            r"finetune\.data\.split: .*set the split of each source there",
        ),
        (
            ["corpus=c", "pairs.from_corpus=true", "finetune.contrastive.false_negative_margin=-0.1"],
            r"finetune\.contrastive\.false_negative_margin needs a guide; set finetune\.contrastive\.false_negatives",
        ),
        (
            ["corpus=c", "pairs.from_corpus=true", "finetune.pretext.language=de"],
            r"finetune\.pretext\.weight is 0, .*; set it above 0",
        ),
        (
            ["corpus=c", "pairs.from_corpus=true", "finetune.optimizer.average_last=2"],
            r"set finetune\.validation\.keep_best to false",
        ),
        (["corpus=c", "evaluate={}"], r"evaluate\.tasks: Field required"),
        (
            ["corpus=c", "adapt=true", 'evaluate={tasks=["x.tsv"], systems=["finetuned"]}'],
            r"evaluate\.systems: finetuned is not a model of this run",
        ),
    ],
)
def test_a_recipe_that_does_not_hold_together_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(*overrides)


def test_epochs_beside_the_steps_of_a_run_recipe_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"finetune\.optimizer\.steps is 40 .* set finetune\.optimizer\.steps=0 as well"
    ):
        load_config(RunConfig, "run-cpu-minutes", ["corpus=c", "finetune.optimizer.epochs=3"])


def test_a_source_may_be_its_name_alone() -> None:
    config = configured('pairs.sources=["a.jsonl", {source="b", split="dev", limit=3}]')
    assert config.pairs
    assert [(one.source, one.split, one.limit) for one in config.pairs.sources] == [
        ("a.jsonl", "train", 0),
        ("b", "dev", 3),
    ]
