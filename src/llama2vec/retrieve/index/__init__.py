"""How a store is searched: by vectors, by words, within a filter."""
