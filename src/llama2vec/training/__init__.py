"""The one training loop, over transformers.Trainer: order, resume, log, checkpoints."""
