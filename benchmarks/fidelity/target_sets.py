"""Compare the authors' targets with ours on real texts: how many token ids one choice has and the other lacks.

python -m benchmarks.fidelity.target_sets --corpus ../shared/data/wiki/train.jsonl.gz
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice

from llama2vec.config import ModelSettings
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.examples.unlabeled import adaptation_examples
from llama2vec.data.settings import TextSettings
from llama2vec.data.text.words import chosen_stop_words
from llama2vec.model.tokenizer import load_tokenizer
from llama2vec.pretext.targets import TargetTokenizer

AUTHORS = ("nltk", True)
CHOICES = {
    ("nltk", False): "same words, ids in the text",
    ("iso", True): "stopwords-iso",
    ("iso", False): "our default",
}


def share(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """Return the share of the first sets' ids that the second sets lack."""
    lost = sum(len(set(one) - set(two)) for one, two in zip(first, second, strict=True))
    return lost / sum(map(len, first))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--model", default=ModelSettings().name)
    parser.add_argument("--passages", type=int, default=4000)
    parser.add_argument("--words", type=int, default=64, help="longest text")
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.model)
    settings = TextSettings(max_words=options.words, held_out=0.0)
    examples, _ = adaptation_examples(islice(read_passages(options.corpus), options.passages), settings)
    texts = [example.text for example in examples]
    targets = {
        (words, joined): [
            one.targets
            for one in TargetTokenizer(tokenizer, 4096, chosen_stop_words(words, "en"), joined=joined)(texts)
        ]
        for words, joined in (AUTHORS, *CHOICES)
    }
    mean = {choice: sum(map(len, found)) / len(found) for choice, found in targets.items()}
    print(f"{len(texts):,} texts of up to {options.words} words; the authors' choice: {mean[AUTHORS]:.1f} ids a text")
    for choice, name in CHOICES.items():
        missing, extra = share(targets[AUTHORS], targets[choice]), share(targets[choice], targets[AUTHORS])
        print(f"{name}: {mean[choice]:.1f} ids; lacks {missing:.1%} of the authors', {extra:.1%} of its own are extra")


if __name__ == "__main__":
    main()
