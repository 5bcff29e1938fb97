"""`python -m catdog_search` is `catdog-search`."""

from catdog_search.cli import main

if __name__ == "__main__":
    main()
