"""Corpora prepared by datatrove: its executors, its MinHash deduplication, its pipelines."""
