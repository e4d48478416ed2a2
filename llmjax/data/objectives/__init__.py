"""Training objectives: causal, masked, span, prefix, and mixtures of these."""
