"""The scheduler process: makes replica numbers true.

Here *scheduler* means reconciler and, later, autoscaler: it decides how many
replicas a function has, starts and stops them through a backend, watches
their state, and publishes endpoints and status. Where a container runs on a
Swarm is not its choice.
"""
