"""Lossless compression by a run's model: any bytes in, the very same bytes out."""
