"""`python -m ddkit` is `ddkit`."""

from ddkit.cli import main

if __name__ == "__main__":
    main()
