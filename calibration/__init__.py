"""Precision: policies, ranges, parity."""
