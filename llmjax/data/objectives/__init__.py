"""What is predicted from what: causal, masked, span, prefix, and mixtures of these."""
