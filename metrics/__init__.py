"""Metrics: one measure, one file. The contract is bench/contract/plugin.py."""
