"""Bounded reads, atomic writes, checksums and caches."""
