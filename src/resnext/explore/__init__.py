"""Look closer: where a network looks, and which pictures are alike."""
