"""Stage 2: teach an encoder from labeled queries which passages answer them (InfoNCE, distillation, Matryoshka)."""
