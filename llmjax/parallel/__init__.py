"""Devices: the mesh and sharding table, processes, memory, the compilation cache."""
