"""Types that every part of the server shares: requests, sampling parameters, results, errors, metrics.

Nothing here imports torch, vLLM or an HTTP library.
"""
