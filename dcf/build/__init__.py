"""From a folder with config.yaml to something a cluster can run.

project reads the file, scaffold writes a new one, bundle builds for the
process backend. Nothing here talks to a gateway or to a cluster.
"""
