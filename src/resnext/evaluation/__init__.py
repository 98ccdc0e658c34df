"""How good a model is, where it is wrong, and which of two is better."""
