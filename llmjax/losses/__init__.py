"""Losses: sums over a batch with their weights."""
