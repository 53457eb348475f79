"""Rollouts for reinforcement learning: groups of samples with log-probabilities, and weights that change."""
