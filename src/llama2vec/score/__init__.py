"""Stage 4: score models on tasks, compare runs, report; only its evaluator imports torch."""
