"""LlamaIndex through sentence-transformers, queries and passages each with their own prompt.

pip install llama-index-core llama-index-embeddings-huggingface 'sentence-transformers>=5.4'
python llamaindex_search.py MODEL

It imports ``reference.py``: `llama2vec recipes show reference.py > reference.py` writes it.
"""

from __future__ import annotations

import json
from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from reference import hold_against, load_encoder, options, read_corpus


def embedding_of(model: str) -> HuggingFaceEmbedding:
    """Return LlamaIndex's embedding class over a saved encoder."""
    # It replaces the model's prompts by its own: pass it the model's, or questions are embedded as passages.
    settings = json.loads((Path(model) / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    return HuggingFaceEmbedding(
        model_name=model,
        query_instruction=settings["prompts"]["query"],
        trust_remote_code=True,
        model_kwargs={"dtype": "float32"},
    )


def main() -> None:
    arguments = options(__doc__).parse_args()
    passages, embedding = read_corpus(arguments.corpus), embedding_of(arguments.model)
    # Nodes and not documents, which would be cut into pieces; no metadata, which would be embedded with the text.
    nodes = [TextNode(id_=one.id, text=one.full_text) for one in passages]
    index = VectorStoreIndex(nodes, embed_model=embedding)
    for hit in index.as_retriever(similarity_top_k=3).retrieve(arguments.question):
        print(f"{hit.score:.3f}  {hit.node.node_id}  {hit.node.get_content()[:60]!r}")

    vectors = [index.vector_store.get(node.node_id) for node in nodes]
    asked = embedding.get_query_embedding(arguments.question)
    texts = [one.full_text for one in passages]
    hold_against(load_encoder(arguments.model), arguments.tolerance, arguments.question, asked, texts, vectors)


if __name__ == "__main__":
    main()
