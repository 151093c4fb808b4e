"""OpenAI's own client against `llama2vec serve`.

    llama2vec serve --model MODEL --dtype float32 --port 8080
    pip install openai
    python openai_client.py MODEL --url http://127.0.0.1:8080/v1

A server with a token: set LLAMA2VEC_TOKEN here as there. A server that computes in bfloat16: ``--tolerance 1e-2``.

It imports ``reference.py``: `llama2vec recipes show reference.py > reference.py` writes it.
"""

from __future__ import annotations

import os

import numpy as np
from openai import OpenAI
from reference import hold_against, load_encoder, options, read_corpus

BATCH = 64


def embed(client: OpenAI, model: str, side: str, texts: list[str]) -> np.ndarray:
    """Return [N, D] vectors; ``side`` is query or passage, and left out it means passage."""
    rows = []
    for start in range(0, len(texts), BATCH):
        answer = client.embeddings.create(
            model=model, input=texts[start : start + BATCH], extra_body={"input_type": side}
        )
        rows += [one.embedding for one in answer.data]
    return np.array(rows, dtype=np.float32)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    arguments = parser.parse_args()
    client = OpenAI(base_url=arguments.url, api_key=os.environ.get("LLAMA2VEC_TOKEN") or "none")
    served = client.models.list().data[0].id
    passages = read_corpus(arguments.corpus)
    texts = [one.full_text for one in passages]
    found = embed(client, served, "passage", texts)
    asked = embed(client, served, "query", [arguments.question])[0]
    # Unit vectors: the inner product is the cosine.
    scores = found @ asked
    for row in np.argsort(-scores, kind="stable")[:3]:
        print(f"{scores[row]:.3f}  {passages[row].id}  {texts[row][:60]!r}")
    hold_against(load_encoder(arguments.model), arguments.tolerance, arguments.question, asked, texts, found)


if __name__ == "__main__":
    main()
