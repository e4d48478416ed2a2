"""Ladders of runs, the laws fitted to them, and predictions from these."""
