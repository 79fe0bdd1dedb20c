"""Another copy of a set, in a directory or on the Hub, from which single files are taken by their hashes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddkit import hub
from ddkit.core.console import note
from ddkit.core.files import file_sha256
from ddkit.errors import FormatVersion, IntegrityError, SetError
from ddkit.format.manifest import Manifest
from ddkit.format.manifest_file import read_manifest
from ddkit.sets.opening import fetch_files, open_manifest


@dataclass(frozen=True)
class Copy:
    """A copy of a set, which may itself be damaged.

    Attributes:
        name: The copy as messages name it: its directory or Hub id.
        root: Its directory, for a set on the Hub the folder of the commit in the client's cache.
        manifest: Its manifest; None if that of a directory is missing or damaged.
    """

    name: str
    root: Path
    manifest: Manifest | None

    @classmethod
    def open(cls, source: str | Path) -> Copy:
        """Open a copy. On the Hub, only the manifest is fetched.

        Args:
            source: The directory, or `ORG/NAME[@REVISION]`.

        Raises:
            SetError, HubAccess, HubError, IntegrityError, FormatVersion.
        """
        if hub.parse_id(str(source)) is not None:
            manifest = open_manifest(source)
            return cls(str(source), manifest.root, manifest)
        root = Path(source)
        if not root.is_dir():
            raise SetError(f"no directory {root} to take files from; give another copy of the set, or ORG/NAME")
        try:
            return cls(str(source), root, read_manifest(root))
        except (SetError, IntegrityError, FormatVersion):
            return cls(str(source), root, None)

    def file(self, path: str, sha256: str) -> Path | None:
        """Return a file of the copy, fetched if it lies on the Hub; None if it has other bytes or is missing.

        Args:
            path: Path of the file, relative to the set.
            sha256: Hash that it must have.

        Raises:
            HubAccess, HubError, DiskError.
        """
        repo = self.manifest and self.manifest.location.hub_id
        if self.manifest and repo and self.manifest.files().get(path) == sha256:
            try:
                fetch_files(self.manifest, repo, {path: sha256})
            except IntegrityError as error:
                note(str(error))
        found = self.root / path
        return found if found.is_file() and file_sha256(found) == sha256 else None
