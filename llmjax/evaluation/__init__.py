"""How good a run is: bits per byte, tasks, multiple choice, the harness, baselines."""
