"""The pretext tasks EBAE and EBAR: what an embedding must predict of a text, and how that is scored."""
