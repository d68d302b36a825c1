"""Rows of text from files and data sets, and packed batches of them in an order that can be resumed.

`sources` (what text, which part is held out), `corpus` (tokenised once), `batches` (what a training step reads).
Nothing is imported here, so that a recipe can be checked without torch.
"""
