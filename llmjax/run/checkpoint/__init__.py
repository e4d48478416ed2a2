"""Checkpoints: state and progress, saved together, verified when read."""
