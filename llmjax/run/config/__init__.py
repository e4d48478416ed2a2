"""The config of a run, one typed frozen value: loaded, overridden, checked, stored."""
