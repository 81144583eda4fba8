"""Ebbtide: backup and restore for self-managed MongoDB."""

__version__ = "0.1.0"
