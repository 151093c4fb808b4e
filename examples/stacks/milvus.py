"""Milvus: an embedded database file (Milvus Lite), and the same code against a cluster.

    pip install 'llama2vec[model]' pymilvus milvus-lite
    python milvus.py MODEL --uri passages.db
    python milvus.py MODEL --uri http://localhost:19530 --token root:Milvus

The collection is named after the model's contract, so that vectors of two models never meet.
"""

from __future__ import annotations

import hashlib

from pymilvus import DataType, MilvusClient
from reference import hold_against, load_encoder, options, read_corpus

BATCH = 512


def key_of(passage_id: str) -> str:
    """Return a primary key: the client writes keys into expressions as they are, so quotes in one would change them."""
    return hashlib.sha256(passage_id.encode()).hexdigest()


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--uri", default="passages.db", help="a file that ends in .db, or the address of a cluster")
    parser.add_argument("--token", default="", help="of a cluster: user:password, or an API key")
    arguments = parser.parse_args()
    encoder, passages = load_encoder(arguments.model), read_corpus(arguments.corpus)
    client = MilvusClient(uri=arguments.uri, token=arguments.token)

    name = f"passages_{encoder.contract_hash[:12]}"
    if not client.has_collection(name):
        schema = client.create_schema(description=f"contract {encoder.contract_hash}")
        schema.add_field("key", DataType.VARCHAR, max_length=64, is_primary=True)
        schema.add_field("id", DataType.VARCHAR, max_length=65_535)
        schema.add_field("text", DataType.VARCHAR, max_length=65_535)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=encoder.dimension)
        index = client.prepare_index_params()
        # Unit vectors: the inner product is the cosine, and Milvus leaves them as they are.
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        # Strong: a search sees what was written just before it.
        client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")
    client.load_collection(name)
    for start in range(0, len(passages), BATCH):
        batch = passages[start : start + BATCH]
        rows = zip(batch, encoder.encode_passages(batch).tolist(), strict=True)
        client.upsert(
            name,
            [{"key": key_of(one.id), "id": one.id, "text": one.full_text, "vector": vector} for one, vector in rows],
        )

    asked = encoder.encode_queries([arguments.question])[0]
    for hit in client.search(name, data=[asked.tolist()], limit=3, output_fields=["id", "text"])[0]:
        print(f"{hit['distance']:.3f}  {hit['entity']['id']}  {hit['entity']['text'][:60]!r}")
    stored = client.get(name, ids=[key_of(one.id) for one in passages[:100]], output_fields=["text", "vector"])
    texts, vectors = [row["text"] for row in stored], [row["vector"] for row in stored]
    hold_against(encoder, arguments.tolerance, arguments.question, asked, texts, vectors)
    count = client.query(name, output_fields=["count(*)"])[0]["count(*)"]
    print(f"{count:,} passages in {name} at {arguments.uri}")
    client.close()


if __name__ == "__main__":
    main()
