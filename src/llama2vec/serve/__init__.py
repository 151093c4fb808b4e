"""The HTTP service: embeddings in OpenAI's format, search, and a page for people."""
