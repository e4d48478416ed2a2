"""Optimizers: configs, learning rate schedules, updates, trainable parameters."""
