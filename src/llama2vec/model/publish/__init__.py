"""What goes along with a saved encoder: portable code and the model card."""
