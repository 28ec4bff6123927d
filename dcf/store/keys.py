"""What the keys in Redis are called; each family has one kind of writer."""

from __future__ import annotations

SPECS = "dcf:specs"
"""Hash: function -> spec as JSON. Written by gateways (admin)."""

COUNTS = "dcf:counts:"
"""Prefix of one hash per function uid: `<slice>/<measure>` -> running total. Each gateway process writes its own
slice."""

ENDPOINTS = "dcf:endpoints"
"""Hash: function -> list of endpoints as JSON. Written by the leading scheduler."""

STATUS = "dcf:status"
"""Hash: function -> status as JSON. Written by the leading scheduler."""

NODES = "dcf:nodes"
"""Hash: "all" -> the machines as JSON. Written by the leading scheduler."""

LEASE = "dcf:lease"
"""Hash: owner and fence of the leading scheduler; runs out unless renewed."""

FENCE = "dcf:fence"
"""The newest fence ever given."""

CHANGES = "dcf:changes"
"""Channel: `<family> <function>` with each write of a spec, endpoints or status."""

FAMILIES = ("spec", "endpoints", "status")
