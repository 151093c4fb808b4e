"""From questions to ranked passages."""
