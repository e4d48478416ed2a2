"""Import and export adapters in PEFT's format."""
