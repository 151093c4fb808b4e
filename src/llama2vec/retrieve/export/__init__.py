"""A store in other programs' files and databases."""
