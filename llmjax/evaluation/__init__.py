"""Evaluation of runs: bits per byte, tasks, multiple choice, the harness, baselines."""
