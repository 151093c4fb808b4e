"""Whether our training and our vectors are those of the authors and of other programs, and with which models."""
