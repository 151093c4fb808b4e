"""Stage 2: teach an encoder from labelled queries which passages answer them (InfoNCE, distillation, Matryoshka)."""
