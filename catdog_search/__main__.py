"""`python -m catdog_search` is `catdog-search`."""

import sys

# Python has put the current folder first, which we don't trust: see `children`.
if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]

from catdog_search.children import trusted_path
from catdog_search.cli import main

if __name__ == "__main__":
    sys.path[:] = trusted_path()
    main()
