"""Clocks, warm-up, slices, memory and scheduler noise: what a worker measures, and how.

Imported by workers: the standard library and numpy on Python 3.9.
"""
