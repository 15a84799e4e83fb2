"""How the emoji world was made and measured: `vestige world ...`."""
