"""Write a llama2vec store as one FAISS file, which any FAISS program can search, and read it back.

    pip install 'llama2vec[model,search]'
    python faiss_file.py MODEL --output vectors.faiss

Row n of the file is passage n of ``vectors.faiss.ids.json``. ``--store`` takes a store from `llama2vec encode`;
its vectors are then compared with the encoder's in the number format of ``--dtype``: the one that `encode` was given.

It imports ``reference.py``: `llama2vec recipes show reference.py > reference.py` writes it.
"""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
from reference import hold_against, load_encoder, options, read_corpus

from llama2vec import VectorStore
from llama2vec.retrieve.store.writer import write_store


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--store", type=Path, help="default: encode the corpus into OUTPUT.store")
    parser.add_argument("--dtype", default="auto", help="number format that --store was encoded in")
    parser.add_argument("--output", type=Path, default=Path("vectors.faiss"))
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.model, arguments.dtype if arguments.store else "float32")
    if arguments.store:
        store = VectorStore.open(arguments.store)
        if store.contract_hash != encoder.contract_hash:
            raise SystemExit(f"{arguments.store} was made by another model than {arguments.model}")
    else:
        passages = read_corpus(arguments.corpus)
        source = {"model": arguments.model, "corpus": arguments.corpus}
        store = write_store(lambda: passages, encoder, Path(f"{arguments.output}.store"), source=source, overwrite=True)

    # Shard by shard, so that only FAISS holds everything. For unit vectors the inner product is the cosine.
    index = faiss.IndexFlatIP(store.dimension)
    for _, vectors in store.shards():
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    faiss.write_index(index, str(arguments.output))
    id_file = Path(f"{arguments.output}.ids.json")
    id_file.write_text(json.dumps(list(store.ids), ensure_ascii=False), encoding="utf-8")

    # From here on only the two files are read.
    index, ids = faiss.read_index(str(arguments.output)), json.loads(id_file.read_text(encoding="utf-8"))
    asked = encoder.encode_queries([arguments.question])
    scores, rows = index.search(asked, min(3, index.ntotal))
    for score, row in zip(scores[0], rows[0], strict=True):
        print(f"{score:.3f}  {ids[row]}")
    sample = np.arange(min(100, len(ids)))
    texts = [passage.full_text for passage in store.passages(sample)]
    hold_against(encoder, arguments.tolerance, arguments.question, asked[0], texts, index.reconstruct_batch(sample))
    print(f"Wrote {len(ids):,} passages [D={index.d}] to {arguments.output}")


if __name__ == "__main__":
    main()
