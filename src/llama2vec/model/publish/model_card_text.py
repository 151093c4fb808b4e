"""The parts of a model card that are the same for every model."""

from __future__ import annotations

SENTENCE_TRANSFORMERS_USE = """\
With sentence-transformers, version 5.4 or later. `trust_remote_code` lets it run the one Python file beside the
weights, `portable_encoder.py`:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}", trust_remote_code=True)
queries = model.encode_query(["How do bees find their way home?"])
passages = model.encode_document(["Bees find their way by the sun.", "The bridge was opened in 1932."])
print(model.similarity(queries, passages))
```

`encode` without a prompt embeds passages, and `encode(…, prompt_name="query")` queries.

With llama2vec:

```python
from llama2vec import Encoder
from llama2vec.config import ModelSettings

# The weights are {dtype}; without settings, llama2vec picks the fastest number format of the device.
encoder = Encoder.load("{name}", settings=ModelSettings(dtype="{dtype}"))
queries = encoder.encode_queries(["How do bees find their way home?"])
passages = encoder.encode_passages(["Bees find their way by the sun.", "The bridge was opened in 1932."])
print(queries @ passages.T)
```"""

TRANSFORMERS_USE = "With transformers alone, one text at a time:\n\n"

LIMITATIONS = """\
- Queries and passages must each be embedded as their side; another prompt, pooling or padding gives other vectors.
- Longer texts are cut, queries at {query_max_tokens} and passages at {passage_max_tokens} tokens.
- Nothing is known of languages and kinds of text that the base model or the data above did not have.
- Vectors repeat what the base model and the data hold, errors and prejudice included.
- The folder holds a whole causal LM, but it was trained to embed and no longer writes well."""

CITATION = """\
```bibtex
@inproceedings{li2024llama2vec,
  title = {Llama2Vec: Unsupervised Adaptation of Large Language Models for Dense Retrieval},
  author = {Li, Chaofan and Liu, Zheng and Xiao, Shitao and Shao, Yingxia and Lian, Defu},
  booktitle = {Proceedings of the 62nd Annual Meeting of the Association for Computational Linguistics},
  year = {2024},
  note = {arXiv:2312.15503},
}
```"""
