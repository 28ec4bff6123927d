"""Where gateway and scheduler meet, and nowhere else: Redis, seen through `contract`.

*Scheduler* here means autoscaler and reconciler; Swarm places tasks on nodes.
"""
