"""Backbones, prompts and the encoder that turns texts into vectors."""
