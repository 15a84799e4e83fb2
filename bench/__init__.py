"""Vestige's harness: it runs erasures, attacks and metrics, and knows none of them by name."""

__version__ = "0.1.0"
