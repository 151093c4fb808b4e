"""What both training stages share: settings, the training loop, checkpoints, the folder that a training writes."""
