"""The command line: python -m merging."""

from merging.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
