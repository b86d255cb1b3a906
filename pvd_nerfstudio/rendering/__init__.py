"""Geometry that teacher and student share: where samples lie and how they make a pixel."""
