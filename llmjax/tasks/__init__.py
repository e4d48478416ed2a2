"""Tasks: what a model learns from examples, from table rows to losses and measures."""
