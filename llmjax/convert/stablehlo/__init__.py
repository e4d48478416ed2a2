"""Runs as StableHLO programs that any machine with JAX runs."""
