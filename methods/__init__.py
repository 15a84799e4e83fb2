"""Erasure methods: one paper, one file. The contract is bench/contract/plugin.py."""
