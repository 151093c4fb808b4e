"""How time and memory grow with the number of passages and of training rows, and what an update costs."""
