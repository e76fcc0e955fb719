"""Intersections between silos: ``silo psi``. What an intersection is stands in ``secagg.psi``."""
