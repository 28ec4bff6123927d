"""`python -m dcf.scheduler`: one scheduler."""

import sys

from dcf.scheduler.main import main

if __name__ == "__main__":
    sys.exit(main())
