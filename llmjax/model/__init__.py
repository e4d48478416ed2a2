"""The Transformer: its config, and pure functions of a nested dict of parameters.

Configs are read without importing Flax.
"""
