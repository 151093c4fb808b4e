"""How fast training, encoding, search and the service are, against peers."""
