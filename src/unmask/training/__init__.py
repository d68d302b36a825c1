"""Training: one loop for all families. `run` is its door, `loop` the loop; nothing is imported here."""
