"""Worked examples; a package, because the wheel of Opacus brings a package of the same name."""
