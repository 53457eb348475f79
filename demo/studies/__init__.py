"""Studies on small models: how a codebook lives or dies, and what guidance buys."""
