"""Attacks: one paper, one file. The contract is bench/plugin.py."""
