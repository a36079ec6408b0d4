"""What a measurement may be asked for. Known without an engine."""

MIN_CONTEXT, MAX_CONTEXT = 32, 1 << 17
"""Tokens of a window."""

__all__ = ["MAX_CONTEXT", "MIN_CONTEXT"]
