"""Lossless compression of any bytes with a language model."""
