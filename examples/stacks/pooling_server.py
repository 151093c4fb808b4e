"""A server that pools the last token (vLLM, llama.cpp) with a model of the paper recipe, asked with token ids.

    vllm serve MODEL --runner pooling --dtype float32          # or llama-server, see docs/stacks.md
    pip install openai
    python pooling_server.py MODEL --url http://127.0.0.1:8000/v1

Ids leave nothing to the server's tokenizer: neither BOS and EOS, nor how the end of a text and the prompt are cut into
tokens, nor where a long text is cut.

It imports ``reference.py``: `llama2vec recipes show reference.py > reference.py` writes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from openai import OpenAI
from reference import hold_against, load_encoder, options, read_corpus
from transformers import AutoTokenizer

BATCH = 32


def obstacles(contract: dict[str, Any]) -> list[str]:
    """Say what of a contract such a server cannot do."""
    encoder = contract["encoder"]
    found = {
        f"its vectors are the mean of {encoder.get('layers')} layers": encoder.get("layers", 1) != 1,
        f"its vectors are the mean of {contract['token_ids']['slots']} slots": contract["token_ids"]["slots"] != 1,
        "its vectors are the mean of all tokens": encoder["pooling"] != "slots",
    }
    return [what for what, is_so in found.items() if is_so]


def embed(client: OpenAI, name: str, contract: dict[str, Any], tokenizer: Any, side: str, texts: list[str]) -> Any:
    """Return [N, D] vectors of prefix, text and the side's prompt with its slot; the text is cut, the prompt is not."""
    limit = contract["encoder"][f"{side}_max_tokens"]
    all_ids, prompt = contract["token_ids"], contract["encoder"][f"{side}_prompt"]
    before = all_ids.get("next_prefix", all_ids["prefix"]) if prompt == "next" else all_ids["prefix"]
    behind = all_ids["suffixes"][prompt]
    ids = [[*before, *row[:limit], *behind] for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    found = []
    for start in range(0, len(ids), BATCH):
        answer = client.embeddings.create(model=name, input=ids[start : start + BATCH], encoding_format="float")
        found += [one.embedding for one in answer.data]
    return np.array(found, dtype=np.float32)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    arguments = parser.parse_args()
    contract = json.loads((Path(arguments.model) / "llama2vec.json").read_text(encoding="utf-8"))
    if obstacles(contract):
        raise SystemExit(f"{arguments.model} cannot be served so: {'; '.join(obstacles(contract))}")
    tokenizer, passages = AutoTokenizer.from_pretrained(arguments.model), read_corpus(arguments.corpus)
    client = OpenAI(base_url=arguments.url, api_key="none")
    served = client, client.models.list().data[0].id, contract, tokenizer
    found = embed(*served, "passage", [one.full_text for one in passages])
    asked = embed(*served, "query", [arguments.question])[0]
    for row in np.argsort(-(found @ asked), kind="stable")[:3]:
        print(f"{found[row] @ asked:.3f}  {passages[row].id}  {passages[row].full_text[:60]!r}")
    texts = [one.full_text for one in passages]
    hold_against(load_encoder(arguments.model), arguments.tolerance, arguments.question, asked, texts, found)


if __name__ == "__main__":
    main()
