"""Training: the one place with signals and clocks."""
