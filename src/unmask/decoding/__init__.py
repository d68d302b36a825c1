"""Decoding: one loop for every family, policies as pure functions, limits, candidates, scores."""
