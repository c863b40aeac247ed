"""`python -m vizsage` is the command `vizsage`."""

import sys

from vizsage.cli import main

if __name__ == "__main__":
    sys.exit(main())
