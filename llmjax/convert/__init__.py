"""Models in and out: what others published becomes a run folder, and a run what others load."""
