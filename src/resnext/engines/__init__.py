"""Way 3: uint8 pictures (N, S, S, 3) to logits and features."""
