"""`python -m dcf` is the `dcf` command."""

from dcf.cli.main import run

if __name__ == "__main__":
    run()
