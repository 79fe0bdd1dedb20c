"""What every command has in common: the next command names what is known."""

import pytest

from ddkit.cli.output import push_command
from ddkit.format.manifest import License

MIT = License(id="mit", name=None, link=None)


@pytest.mark.parametrize(
    ("repo", "license", "words"),
    [
        (None, None, "YOUR_NAME/NAME --license LICENCE"),
        ("lab/digits", None, "lab/digits --license LICENCE"),
        ("lab/digits", MIT, "lab/digits"),
    ],
)
def test_the_push_command_names_the_known_repository_and_licence(rded_set, repo, license, words):
    manifest = rded_set.changed(repo=repo, license=license)
    assert push_command("mine", manifest) == f"ddkit push mine {words.replace('NAME/NAME', f'NAME/{manifest.name}')}"
