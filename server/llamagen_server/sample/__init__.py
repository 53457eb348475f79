"""Sets of samples: N images with fixed seeds, for evaluation. A run that was killed goes on where it was."""
