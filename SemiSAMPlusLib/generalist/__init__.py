"""Frozen promptable models behind one protocol."""
