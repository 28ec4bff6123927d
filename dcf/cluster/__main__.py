"""`python -m dcf.cluster`: a whole cluster on this machine."""

import sys

from dcf.cluster.main import main

if __name__ == "__main__":
    sys.exit(main())
