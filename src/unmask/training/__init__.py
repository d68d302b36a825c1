"""Training: one loop for all families. `run` is its door, `loop` the loop; nothing is imported here.

`config` is what a recipe may say, `setup` chooses what it leaves open, `lora` puts an adapter into its base.
"""
