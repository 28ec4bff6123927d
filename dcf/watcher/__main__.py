"""`python -m dcf.watcher`: one replica."""

import os
import sys

if __name__ == "__main__":
    # It starts workers while gRPC runs; gRPC reads this when it is imported, and would
    # otherwise write a line about skipped fork handlers at each of them.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    from dcf.watcher.main import main

    sys.exit(main())
