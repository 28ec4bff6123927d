"""The process behind `dcf up`: Redis, scheduler and gateways, kept running.

`python -m dcf.cluster` starts them in that order, starts again what dies, and
stops them in the opposite order. It decides nothing about functions: that is
the scheduler's (in DCF's sense: autoscaler and reconciler). `state` is also
what the CLI asks about the cluster on this machine.
"""
