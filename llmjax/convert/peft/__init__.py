"""Adapters in PEFT's format, both ways."""
