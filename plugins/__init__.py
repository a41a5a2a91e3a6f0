"""Custom operators, one folder each."""
