"""An exported encoder in ONNX Runtime: the graph and its tokenizer are all that is read.

    pip install 'llama2vec[onnx]'
    llama2vec export MODEL --output onnx
    python onnx_search.py MODEL --onnx onnx

Only the comparison at the end loads MODEL.

It imports ``reference.py``: `llama2vec recipes show reference.py > reference.py` writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from reference import hold_against, load_encoder, options, read_corpus
from tokenizers import Tokenizer

BATCH = 32


def embed(session: Any, tokenizer: Tokenizer, texts: list[str]) -> Any:
    """Return unit vectors [N, D]; the tokenizer adds the prompt, cuts and pads, and the graph pools and normalizes."""
    found = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer.encode_batch(texts[start : start + BATCH])
        ids, mask = (np.array([getattr(one, name) for one in batch]) for name in ("ids", "attention_mask"))
        found += session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})
    return np.concatenate(found)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--onnx", default="onnx", help="folder that `llama2vec export` wrote")
    arguments = parser.parse_args()
    folder, passages = Path(arguments.onnx), read_corpus(arguments.corpus)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    reads_passages = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own = folder / "query_tokenizer.json"  # Only where queries are read in another way than passages
    reads_queries = Tokenizer.from_file(str(own)) if own.is_file() else reads_passages
    texts = [one.full_text for one in passages]
    found, asked = embed(session, reads_passages, texts), embed(session, reads_queries, [arguments.question])[0]
    for row in np.argsort(-(found @ asked), kind="stable")[:3]:
        print(f"{found[row] @ asked:.3f}  {passages[row].id}  {texts[row][:60]!r}")
    hold_against(load_encoder(arguments.model), arguments.tolerance, arguments.question, asked, texts, found)


if __name__ == "__main__":
    main()
