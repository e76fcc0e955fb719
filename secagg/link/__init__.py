"""The connection of a silo and the coordinator, without I/O: frames, resumption, limits."""
