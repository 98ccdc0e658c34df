"""How good a model is, as pure functions of arrays: figures and their intervals."""
