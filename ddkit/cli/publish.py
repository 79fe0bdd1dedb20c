"""Commands of the panel "Publish": card, push, pull, verify, repair."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from ddkit.cli import options as o
from ddkit.cli.output import command, document, next_step, push_command, say
from ddkit.errors import OptionError


@command("Publish")
def card(directory: Annotated[str, typer.Argument(help="a distilled set")]) -> None:
    """Render README.md, _info.json and preview.png of a set from its manifest; your own text on the card is kept."""
    from ddkit.format.manifest_file import read_manifest
    from ddkit.publishing.looking import card as run

    path = run(directory)
    say(f"{path}")
    document({"card": str(path)})
    next_step(push_command(directory, read_manifest(directory)))


@command("Publish")
def push(
    directory: Annotated[str, typer.Argument(help="a distilled set")],
    repo: Annotated[str, typer.Argument(help="ORG/NAME on the Hub")],
    license: Annotated[
        str | None,
        typer.Option("--license", help="mit, cc-by-4.0, …, or other; required at the first push, then remembered"),
    ] = None,
    license_name: Annotated[str | None, typer.Option("--license-name", help="with --license other")] = None,
    license_link: Annotated[str | None, typer.Option("--license-link", help="with --license other")] = None,
    private: Annotated[bool, typer.Option("--private", help="a new repository is private")] = False,
    gated: Annotated[str | None, typer.Option("--gated", help="auto or manual: readers agree to terms first")] = None,
    into_existing: Annotated[
        bool, typer.Option("--into-existing", help="also push into a repository that holds other files")
    ] = False,
    card_extra: Annotated[
        str | None, typer.Option("--card-extra", help="a Markdown file, shown at the end of the card")
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="propose it as a pull request")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="a branch (default main)")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="name of the commit (default content-…)")] = None,
    commit_message: Annotated[str | None, typer.Option("--commit-message", help="default: the set's name")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be sent and deleted")] = False,
    space: Annotated[
        str | None, typer.Option("--space", help="also publish the page of the set as the static Space ORG/NAME")
    ] = None,
) -> None:
    """Publish a set on the Hub with its card, in one commit. A second push sends only changed files."""
    from ddkit.publishing.pushing import push as run
    from ddkit.publishing.pushing import summary
    from ddkit.publishing.spaces import check_space, push_space

    if space is not None:
        if create_pr or revision:
            raise OptionError("--space shows what is on main; leave --create-pr and --revision out")
        check_space(space, repo, closed=private or gated is not None)
    pushed = run(
        directory, repo, license=license, license_name=license_name, license_link=license_link, private=private,
        gated=gated, into_existing=into_existing, card_extra=card_extra, create_pr=create_pr, revision=revision,
        tag=tag, commit_message=commit_message, dry_run=dry_run,
    )  # fmt: skip
    for line in summary(pushed, dry_run):
        say(line)
    page = None
    if space is not None and dry_run:
        say(f"page: {space}")
    elif space is not None:
        page = push_space(directory, space, repo.partition("/")[2], repo)
        say(f"page: {page}")
    document(asdict(pushed) | {"bytes": pushed.bytes, "dry_run": dry_run, "space": page})
    again = shlex.join(word for word in sys.argv[1:] if word != "--dry-run")
    there = f"{repo}@{pushed.revision}" if pushed.revision else repo
    next_step(f"ddkit {again}" if dry_run else f"ddkit train {there}")


@command("Publish")
def pull(
    source: Annotated[str, typer.Argument(help="ORG/NAME[@REVISION] on the Hub")],
    directory: Annotated[str, typer.Argument(help="the directory to create; run again to continue")],
    ipc: o.Ipc = None,
    revision: Annotated[str | None, typer.Option("--revision", help="a branch, tag or commit")] = None,
) -> None:
    """Download a set, or the first N images per class of it, and verify every file against its manifest."""
    from ddkit.core.console import size_words
    from ddkit.publishing.pulling import pull as run

    manifest = run(source, directory, ipc=ipc, revision=revision)
    total = manifest.total_bytes()
    say(f"{directory}: {manifest.name}, {manifest.rows()} rows, {size_words(total)}, verified")
    document({"directory": directory, "content": manifest.content, "rows": manifest.rows(), "bytes": total})
    next_step(f"ddkit train {directory}")


@command("Publish")
def verify(
    directory: o.SetOrId,
    full: Annotated[bool, typer.Option("--full", help="download a set on the Hub and read every row")] = False,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="the set's teacher: label some views again and compare")
    ] = None,
) -> None:
    """Verify every shard and row of a set against its manifest; on the Hub by sha256, without a download."""
    from ddkit.errors import IntegrityError
    from ddkit.format.verification import stale_files
    from ddkit.pipeline.relabelling import label_problems
    from ddkit.sets.opening import is_remote, open_set, verify_set

    away = is_remote(directory)
    manifest, problems = verify_set(directory, full)
    if teacher is not None and not problems:
        problems = label_problems(open_set(directory), teacher)
    document({"directory": directory, "problems": problems})
    for problem in problems[1:]:
        say(problem)
    if problems:
        more = f" (and {len(problems) - 1} more problems above)" if len(problems) > 1 else ""
        step = "report it to its owner" if away else f"`ddkit repair {directory}` restores what it can"
        raise IntegrityError(f"{directory}: {problems[0]}{more}; {step}")
    if not away and (stale := stale_files(manifest)):
        say(f"{', '.join(stale)} does not match this manifest; run `ddkit card {directory}` to render it again")
    rows = f"{manifest.rows()} rows in {len(manifest.shards)} shards"
    how = ", compared by the Hub's sha256 (--full downloads and reads them)" if away and not full else ""
    say(f"{directory}: {rows} match the manifest{how}")
    next_step(f"ddkit train {directory}")


@command("Publish")
def repair(
    directory: Annotated[str, typer.Argument(help="a distilled set")],
    source: Annotated[
        str | None,
        typer.Option("--from", help="another copy of the set: a directory, or ORG/NAME[@REVISION] on the Hub"),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="the set's teacher: restores the one that a set carries")
    ] = None,
) -> None:
    """Restore damaged files byte for byte from the set itself, OUT.work or another copy; name what is lost."""
    from ddkit.errors import IntegrityError
    from ddkit.format.manifest_file import read_manifest
    from ddkit.pipeline.repairing import repair as run

    repaired = run(directory, source, teacher=teacher)
    document({"directory": directory} | asdict(repaired))
    for file in repaired.restored:
        say(f"{file.path}: restored from {file.source}")
    for lost in repaired.lost:
        say(f"{lost.path}: lost ({lost.missing}); give {lost.remedy}")
    if repaired.lost:
        first = repaired.lost[0]
        files = f"{len(repaired.lost)} files are" if len(repaired.lost) > 1 else "1 file is"
        raise IntegrityError(
            f"{directory}: {files} still damaged, {first.path} first ({first.missing}); give {first.remedy}"
        )
    if repaired.problems:
        raise IntegrityError(f"{directory}: {repaired.problems[0]}; make the set again, it was not valid when written")
    manifest = read_manifest(directory)
    done = f"{len(repaired.restored)} files restored" if repaired.restored else "nothing to repair"
    say(f"{directory}: {done}; {manifest.rows()} rows in {len(manifest.shards)} shards match the manifest")
    next_step(f"ddkit train {directory}")
