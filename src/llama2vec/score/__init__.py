"""Stage 4: score models on tasks, compare runs, report; imports torch in its evaluator alone."""
