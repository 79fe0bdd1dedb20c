"""Panel Publish: card, verify."""

from __future__ import annotations

from typing import Annotated

import typer

from ddkit.cli.output import command, document, next_step, say


def register(app: typer.Typer) -> None:
    """Add the commands of this panel."""

    @command(app, "Publish")
    def card(directory: Annotated[str, typer.Argument(help="a distilled set")]) -> None:
        """Render README.md, _info.json and preview.png of a set from its manifest."""
        from ddkit.format import read_manifest
        from ddkit.publishing.card import publish_files

        manifest = read_manifest(directory)
        publish_files(manifest)
        say(f"{manifest.root / 'README.md'}")
        document({"card": str(manifest.root / "README.md")})

    @command(app, "Publish")
    def verify(directory: Annotated[str, typer.Argument(help="a distilled set")]) -> None:
        """Compare every shard and every row of a set with its manifest."""
        from ddkit.errors import IntegrityError
        from ddkit.format import read_manifest
        from ddkit.format.integrity import stale_files
        from ddkit.format.integrity import verify as run

        problems = run(directory)
        document({"directory": directory, "problems": problems})
        for problem in problems[1:]:
            say(problem)
        if problems:
            more = f" (and {len(problems) - 1} more problems above)" if len(problems) > 1 else ""
            raise IntegrityError(f"{directory}: {problems[0]}{more}; fetch or make the set again")
        manifest = read_manifest(directory)
        if stale := stale_files(manifest):
            say(f"{', '.join(stale)} does not belong to this manifest; `ddkit card {directory}` renders it anew")
        say(f"{directory}: {manifest.rows()} rows in {len(manifest.data['shards'])} shards are as the manifest says")
        next_step(f"ddkit train {directory}")
