"""Checkpoints: state and data position, saved together, verified when read."""
