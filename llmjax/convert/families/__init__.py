"""Families of published models: a table of config fields and tensor names each."""
