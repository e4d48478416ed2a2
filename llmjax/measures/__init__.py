"""How good predictions are: accepted metrics, with bootstrap intervals."""
