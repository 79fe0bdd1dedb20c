"""Launcher for a checkout: `python cli.py …` is `ddkit …`."""

from ddkit.cli import main

main()
