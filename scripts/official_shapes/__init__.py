"""``make shapes-test``: every official model with random weights, converted and served."""
