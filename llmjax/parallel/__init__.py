"""Devices: the mesh and its one table, processes, memory, compiled programs."""
