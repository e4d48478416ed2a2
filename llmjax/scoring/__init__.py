"""Scoring of text by log-likelihood: documents -> windows -> rows -> exact sums."""
