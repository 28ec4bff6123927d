"""The address that clients know: HTTP and gRPC in, calls to watchers out.

It admits, holds, routes and counts; it reads from the store what the
scheduler publishes and writes specs and counts there. It never touches
Docker. *Watcher* means a function's server, one for each replica.
"""
