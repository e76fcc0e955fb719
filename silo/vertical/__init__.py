"""Vertical jobs between silos: one flow of reading, finding shared records, training and scoring together."""
