"""What a set is: views (integers and pixels), codecs, shards, the manifest, and checking them.

Everybody may come in; nothing here knows of teachers, sources or methods.
"""

from ddkit.format.manifest import Manifest, read_manifest
from ddkit.format.views import Views, apply, draw

__all__ = ["Manifest", "Views", "apply", "draw", "read_manifest"]
