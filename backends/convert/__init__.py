"""Converters between model formats, and readers of programs. Each module is one of either."""
