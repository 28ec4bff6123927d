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

DECISIONS = "dcf:decisions"
"""Hash: function -> its last decisions as JSON, oldest first. Written by the leading scheduler."""

LOAD = "dcf:load"
"""Set: slices that report. Written by gateways."""

LOAD_OF = "dcf:load:"
"""Prefix of one text per slice: Redis' time and what it sees of the functions as JSON; runs out unless written again.
Each gateway process writes its own."""

LEASE = "dcf:lease"
"""Hash: owner and fence of the leading scheduler; runs out unless renewed."""

FENCE = "dcf:fence"
"""The newest fence ever given."""

CHANGES = "dcf:changes"
"""Channel: `<family> <function>` with each write of a spec, endpoints or status; `load <slice>` where calls wait."""

FAMILIES = ("spec", "endpoints", "status", "load")
