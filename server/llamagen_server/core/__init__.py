"""Requests, sampling parameters, results, errors and metrics."""
