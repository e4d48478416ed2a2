"""Attention: the reference implementation and faster kernels."""
