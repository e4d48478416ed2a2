"""Attention: the reference computation and the kernels that replace it."""
