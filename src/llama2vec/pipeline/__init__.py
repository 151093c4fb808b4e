"""All stages in one run: planned from one recipe, executed in order, skipped where nothing changed, resumed."""
