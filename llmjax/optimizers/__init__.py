"""Optimizers: what they are (config), the learning rate's course, and their update."""
