"""The replica's server: a gRPC face for one worker process that holds the handler.

*Watcher* means the function's server (it watches over the handler); it never
touches Redis or Docker. Data flows grpc_api -> worker_pool -> worker_process
-> the worker's socket, and back the same way.
"""
