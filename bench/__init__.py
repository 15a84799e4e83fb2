"""Vestige's harness: it runs erasures, attacks and metrics, and knows none of them by name."""

from pathlib import Path

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent
