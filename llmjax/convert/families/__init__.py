"""Families of published models, each a list of config fields and a name table."""
