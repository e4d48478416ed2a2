"""A run: its folder, config, checkpoints and telemetry."""
