"""LangChain through sentence-transformers, queries and passages each with their own prompt.

    pip install langchain-core 'sentence-transformers>=5.4'
    python langchain_search.py MODEL

``--huggingface`` takes ``HuggingFaceEmbeddings`` of langchain-huggingface instead of the class below: the same vectors,
but for texts with line breaks, which it turns into spaces before the model sees them (the last check says so).

It imports ``reference.py``: `llama2vec recipes show reference.py > reference.py` writes it.
"""

from __future__ import annotations

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from reference import hold_against, load_encoder, options, read_corpus
from sentence_transformers import SentenceTransformer

FLOAT32 = {"dtype": "float32"}


class Llama2VecEmbeddings(Embeddings):
    """A saved encoder as LangChain wants it; goes into any of its vector stores."""

    def __init__(self, model: str) -> None:
        self.encoder = SentenceTransformer(model, trust_remote_code=True, model_kwargs=FLOAT32)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector a passage."""
        return self.encoder.encode_document(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        return self.encoder.encode_query(text).tolist()


def huggingface_embeddings(model: str) -> Embeddings:
    from langchain_huggingface import HuggingFaceEmbeddings

    return HuggingFaceEmbeddings(
        model_name=model,
        model_kwargs={"trust_remote_code": True, "model_kwargs": FLOAT32},
        # Without this a question is embedded as a passage, and nothing says so.
        query_encode_kwargs={"prompt_name": "query"},
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--huggingface", action="store_true", help="through langchain-huggingface")
    arguments = parser.parse_args()
    passages = read_corpus(arguments.corpus)
    embeddings = (huggingface_embeddings if arguments.huggingface else Llama2VecEmbeddings)(arguments.model)
    store = InMemoryVectorStore(embeddings)
    store.add_texts([one.full_text for one in passages], ids=[one.id for one in passages])
    for document, score in store.similarity_search_with_score(arguments.question, k=3):
        print(f"{score:.3f}  {document.id}  {document.page_content[:60]!r}")

    texts, vectors = zip(*((row["text"], row["vector"]) for row in store.store.values()), strict=True)
    asked = embeddings.embed_query(arguments.question)
    hold_against(load_encoder(arguments.model), arguments.tolerance, arguments.question, asked, texts, vectors)


if __name__ == "__main__":
    main()
