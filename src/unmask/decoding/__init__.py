"""Decoding: one loop for every family, policies as pure functions, limits, candidates, scores.

`opening` makes rows to start from of texts, `infill` is the loop, `answers` makes fills of its rows.
"""
