"""The Transformer: a config, and pure functions of plain parameters.

A config is read without Flax being imported: what needs it is brought when it is first used.
"""
