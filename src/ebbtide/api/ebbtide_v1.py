"""Ebbtide's own API: what the Atlas family has no place for. Described in docs/api.md."""

from ebbtide.api.operations import Operation

OPERATIONS: tuple[Operation, ...] = ()
