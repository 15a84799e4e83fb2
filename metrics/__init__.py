"""Metrics: one measure, one file. The contract is bench/plugin.py."""
