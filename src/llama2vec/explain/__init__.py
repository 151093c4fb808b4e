"""Which words an embedding stands for, and which of them carry a match."""
