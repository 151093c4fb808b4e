"""Stage 1: teach a causal LLM, on plain text alone, to put a whole text into one vector (EBAE and EBAR)."""
