"""Export runs as StableHLO programs that need only JAX."""
