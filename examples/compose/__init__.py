"""A coordinator and three silos in containers."""
