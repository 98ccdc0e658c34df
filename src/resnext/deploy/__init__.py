"""A model in other places: proof that it computes the same there."""
