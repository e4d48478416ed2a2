"""Continuous batching: requests join and leave between the steps of one decoding batch."""
