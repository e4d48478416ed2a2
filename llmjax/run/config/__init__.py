"""A run as one typed, frozen value: composed, loaded, overridden, checked, stored."""
