"""The command line where the script is not on the path: `python -m dpclip`."""

import sys

from dpclip.cli import main

if __name__ == "__main__":
    sys.exit(main())
