"""Runs: folder, config, checkpoints, telemetry."""
