"""`python -m dcf.watcher`: one replica."""

import os
import signal
import sys

if __name__ == "__main__":
    if os.getpid() == 1:
        # The kernel lets no signal end a container's first process that has no handler for it: a replica that is
        # stopped while it imports would otherwise stay until its whole grace is over.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    # It starts workers while gRPC runs; gRPC reads this when it is imported, and would
    # otherwise write a line about skipped fork handlers at each of them.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    from dcf.watcher.main import main

    sys.exit(main())
