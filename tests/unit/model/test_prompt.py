"""The embedding prompt: ids come from the tokenizer, and nothing ever eats a slot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama2vec.config import PROMPT_RECIPES, PromptSettings
from llama2vec.errors import TokenizerError
from llama2vec.model.prompt import PromptIds, add_slot_tokens, count_longer, prompt_ids, slot_names

PAPER, RELEASED = PROMPT_RECIPES["paper"], PROMPT_RECIPES["released"]
AUTHORS_SELF = '", summarize the above passage within eight words: <s1><s2><s3><s4><s5><s6><s7><s8>'
AUTHORS_NEXT = '", predict the following passage within eight words: <s9><s10><s11><s12><s13><s14><s15><s16>'


def test_the_paper_prompt_is_the_wording_with_eos_as_its_slot(tokenizer: Any) -> None:
    ids = prompt_ids(tokenizer, PAPER)
    assert ids.prefix == (tokenizer.bos_token_id,)
    assert ids.slots == 1
    for name, wording in (("self", PAPER.self_prompt), ("next", PAPER.next_prompt)):
        *words, slot = ids.suffixes[name]  # type: ignore[index]
        assert slot == tokenizer.eos_token_id
        assert words == tokenizer(wording, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(words) == wording


def test_ids_follow_the_tokenizer_and_are_not_hard_coded(make_tokenizer: Callable[..., Any]) -> None:
    small, large = (prompt_ids(make_tokenizer(vocabulary=size), PAPER) for size in (90, 160))
    assert small.suffixes["self"] != large.suffixes["self"]
    assert len(small.suffixes["self"]) > len(large.suffixes["self"])


def test_a_tokenizer_without_bos_puts_nothing_in_front(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(bos=False)
    assert prompt_ids(tokenizer, PAPER).prefix == ()
    # "bos" falls back to EOS where there is no BOS, as OPT-like models were trained.
    assert prompt_ids(tokenizer, PAPER.model_copy(update={"begin": "bos"})).prefix == (tokenizer.eos_token_id,)


def test_bos_can_be_left_out_or_asked_for(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    assert prompt_ids(tokenizer, PAPER.model_copy(update={"begin": "none"})).prefix == ()
    assert prompt_ids(tokenizer, PAPER.model_copy(update={"begin": "bos"})).prefix == (tokenizer.bos_token_id,)


def test_eos_behind_a_text_is_not_mistaken_for_its_begin(make_tokenizer: Callable[..., Any]) -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert prompt_ids(tokenizer, PAPER).prefix == (1,)


def test_the_prefix_stands_behind_bos(tokenizer: Any) -> None:
    ids = prompt_ids(tokenizer, PAPER.model_copy(update={"prefix": "stone: "}))
    assert ids.prefix == (1, *tokenizer("stone: ", add_special_tokens=False)["input_ids"])


def test_released_prompts_end_in_eight_slots_of_their_own(tokenizer: Any) -> None:
    added = add_slot_tokens(tokenizer, RELEASED)
    ids = prompt_ids(tokenizer, RELEASED)
    assert added == [f"<s{number}>" for number in range(1, 17)]
    assert ids.slots == 8
    assert list(ids.suffixes["self"][-8:]) == tokenizer.convert_tokens_to_ids(slot_names(RELEASED)["self"])
    assert list(ids.suffixes["next"][-8:]) == tokenizer.convert_tokens_to_ids(slot_names(RELEASED)["next"])
    assert not set(ids.suffixes["self"][-8:]) & set(ids.suffixes["next"][-8:])
    assert add_slot_tokens(tokenizer, RELEASED) == []


def test_slot_tokens_join_the_special_tokens_that_are_there(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    add_slot_tokens(tokenizer, PromptSettings(slots=1))
    assert {"<tool>", "<s1>", "<s2>", "<s>", "</s>"} <= set(tokenizer.all_special_tokens)


@pytest.mark.parametrize("metaspace", [False, True])
def test_released_ids_equal_the_authors_own_way_to_make_them(
    make_tokenizer: Callable[..., Any], metaspace: bool
) -> None:
    tokenizer = make_tokenizer(metaspace=metaspace)
    add_slot_tokens(tokenizer, RELEASED)
    ids = prompt_ids(tokenizer, RELEASED)
    assert list(ids.prefix) == tokenizer('"')["input_ids"]
    assert list(ids.suffixes["self"]) == tokenizer(AUTHORS_SELF)["input_ids"][1:]
    assert list(ids.suffixes["next"]) == tokenizer(AUTHORS_NEXT)["input_ids"][1:]


def test_released_ids_equal_the_authors_for_llama_2s_normalizer(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(metaspace=True, llama_2=True)
    add_slot_tokens(tokenizer, RELEASED)
    ids = prompt_ids(tokenizer, RELEASED)
    assert tokenizer.convert_ids_to_tokens(list(ids.prefix)) == ["<s>", "▁", '"']
    assert list(ids.prefix) == tokenizer('"')["input_ids"]
    assert list(ids.suffixes["self"]) == tokenizer(AUTHORS_SELF)["input_ids"][1:]
    assert list(ids.suffixes["next"]) == tokenizer(AUTHORS_NEXT)["input_ids"][1:]


@pytest.mark.parametrize("max_tokens", [0, 1, 3, 50])
def test_truncation_never_removes_a_slot(tokenizer: Any, sentences: list[str], max_tokens: int) -> None:
    for recipe in (PAPER, RELEASED):
        add_slot_tokens(tokenizer, recipe)
        ids = prompt_ids(tokenizer, recipe)
        text = tokenizer(sentences[0], add_special_tokens=False)["input_ids"]
        for name in ("self", "next"):
            wrapped = ids.wrap(text, name, max_tokens)  # type: ignore[arg-type]
            suffix = list(ids.suffixes[name])  # type: ignore[index]
            assert wrapped == [*ids.prefix, *text[:max_tokens], *suffix]
            assert wrapped[-len(suffix) :] == suffix
        assert ids.wrap(text, None, max_tokens) == [*ids.prefix, *text[:max_tokens]]


def test_a_tokenizer_without_eos_is_refused_with_a_way_out(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos=False)
    with pytest.raises(TokenizerError, match=r"no EOS token.*released"):
        prompt_ids(tokenizer, PAPER)
    add_slot_tokens(tokenizer, RELEASED)
    assert prompt_ids(tokenizer, RELEASED).slots == 8


def test_a_tokenizer_without_bos_and_eos_cannot_begin_with_either(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(bos=False, eos=False)
    with pytest.raises(TokenizerError, match="neither BOS nor EOS"):
        prompt_ids(tokenizer, PromptSettings(begin="bos", slots=1))


def test_missing_slot_tokens_are_an_error_and_not_a_split_word(tokenizer: Any) -> None:
    with pytest.raises(TokenizerError, match="lacks the slot tokens <s1>…<s8>"):
        prompt_ids(tokenizer, RELEASED)


def test_a_saved_tokenizer_gives_the_same_ids(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    add_slot_tokens(tokenizer, RELEASED)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(prompt_ids(again, RELEASED), PromptIds)
    assert prompt_ids(again, RELEASED) == prompt_ids(tokenizer, RELEASED)
    assert add_slot_tokens(again, RELEASED) == []


def test_queries_and_passages_may_have_prefixes_of_their_own(tokenizer: Any) -> None:
    ids = prompt_ids(tokenizer, PROMPT_RECIPES["repllama"])
    begin = [tokenizer.bos_token_id]
    passage, query = (tokenizer(words, add_special_tokens=False)["input_ids"] for words in ("passage: ", "query: "))
    assert ids.wrap([40, 41, 42], "self", 2) == [*begin, *passage, 40, 41, tokenizer.eos_token_id]
    assert ids.wrap([40, 41, 42], "next", 2) == [*begin, *query, 40, 41, tokenizer.eos_token_id]
    longest = max(len(passage), len(query))
    assert ids.room(100) == 100 - 2 - longest
    assert ids.text_room(100, "next") == 100 - 2 - len(query)


def test_the_last_token_of_the_wording_or_of_the_text_may_be_the_slot(tokenizer: Any) -> None:
    last, word = (prompt_ids(tokenizer, PROMPT_RECIPES[name]) for name in ("last-token", "one-word"))
    assert last == PromptIds((tokenizer.bos_token_id,), {"self": (), "next": ()}, 1)
    assert last.wrap([40, 41], "self", 9) == [tokenizer.bos_token_id, 40, 41]
    assert tokenizer.decode(word.wrap([], "self", 9)[1:]) == 'This sentence : "" means in one word:"'
    assert word.suffixes["self"][-1] != tokenizer.eos_token_id
    with pytest.raises(ValueError, match="new slot tokens end the prompt"):
        PromptSettings(slots=2, slot="last")


def test_a_text_may_be_read_twice(tokenizer: Any) -> None:
    ids = prompt_ids(tokenizer, PROMPT_RECIPES["echo"])
    between = tokenizer(", rewritten sentence: ", add_special_tokens=False)["input_ids"]
    assert ids.wrap([40, 41, 42], None, 2) == [*ids.prefix, 40, 41, *between, 40, 41]
    # Each copy has half of an even number of free tokens.
    around = len(ids.prefix) + len(between)
    assert (ids.room(around + 20), ids.room(around + 21)) == (10, 10)


def test_a_space_where_wording_and_text_meet_counts_once(make_tokenizer: Callable[..., Any]) -> None:
    recipe = PromptSettings(prefix="query: ", self_prompt=" The sentence:", next_prompt="the next:")
    own = make_tokenizer(metaspace=True, llama_2=True)
    ids = prompt_ids(own, recipe)
    text = own("river", add_special_tokens=False)["input_ids"]
    assert own.decode([*ids.prefix[1:], *text, *ids.suffixes["self"][:-1]]) == "query: river The sentence:"
    # A byte-pair tokenizer adds no space, so the wording keeps its own.
    plain = make_tokenizer()
    assert plain.decode(prompt_ids(plain, recipe).suffixes["self"][:-1]) == " The sentence:"


def test_a_tokenizer_that_adds_bos_twice_begins_with_one(make_tokenizer: Callable[..., Any]) -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer()
    template = processors.TemplateProcessing(single="<s> <s> $A", special_tokens=[("<s>", 1)])
    tokenizer.backend_tokenizer.post_processor = template
    assert tokenizer("a")["input_ids"][:2] == [1, 1]
    assert prompt_ids(tokenizer, PromptSettings()).prefix == (1,)


def test_short_ascii_texts_are_not_tokenized_to_learn_that_they_are_whole(tokenizer: Any) -> None:
    read: list[str] = []

    def reading(texts: list[str], **options: Any) -> Any:
        read.extend(texts)
        return tokenizer(texts, **options)

    texts = ["", "river", "9" * 9, "9" * 10, "9" * 11, "The river is wide. " * 3, "é" * 9, "翼とは何"]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    for most in (1, 5, 10, 20, 60):
        assert count_longer(reading, texts, most) == sum(length > most for length in lengths)
    read.clear()
    assert count_longer(reading, ["what is a river?"] * 3, 17) == 0
    assert not read
