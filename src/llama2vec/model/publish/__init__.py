"""What goes along with a saved encoder: portable code, model card, hub."""
