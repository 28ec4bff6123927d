"""`python -m dcf.gateway`: one gateway process."""

import sys

from dcf.gateway.main import main

if __name__ == "__main__":
    sys.exit(main())
