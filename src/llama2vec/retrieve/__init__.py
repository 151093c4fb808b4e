"""Stage 3: encode a corpus into a store, index it, search it; and BM25 to compare with."""
