"""Trains the embedded models from nothing; `examples/train_shapes.py` is its command line."""
