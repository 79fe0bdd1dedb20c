"""Licences by their Hub identifiers (Hub documentation, "Licenses"), and which sets should be gated."""

from __future__ import annotations

import difflib
import re

from ddkit.errors import OptionError, Refused
from ddkit.format.manifest import License, Manifest

_NAMES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma unknown other
"""
KNOWN = frozenset(_NAMES.split())
_GATED_TERMS = re.compile(r"-nc|research|noncommercial|other|unknown")


def choose_license(id: str | None, name: str | None, link: str | None, kept: License | None) -> License:
    """Return the licence of a set.

    Args:
        id: Identifier on the Hub.
        name: Name, if `id` is "other".
        link: Address or file, if `id` is "other".
        kept: Licence of an earlier push, used if `id` is None.

    Raises:
        Refused: There is no licence.
        OptionError: The Hub does not know the licence, or "other" is given without a name.
    """
    if id is None:
        if kept is None:
            raise Refused(
                "publishing a set needs a licence; give --license (mit, cc-by-4.0, …; see the source's terms), "
                "or --license other --license-name NAME --license-link URL"
            )
        return kept
    if id not in KNOWN:
        near = difflib.get_close_matches(id.lower().replace(" ", "-"), sorted(KNOWN), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "mit, cc-by-4.0 and cc-by-nc-4.0 are some"
        raise OptionError(f"the Hub knows no licence {id!r}; {hint} (huggingface.co/docs/hub/repositories-licenses)")
    if id == "other" and not name:
        raise OptionError("--license other needs --license-name NAME, and --license-link URL or file")
    if id != "other" and (name or link):
        raise OptionError(f"--license-name and --license-link are for --license other, not {id}; leave them out")
    return License(id=id, name=name, link=link)


def wants_gate(manifest: Manifest) -> bool:
    """Whether a set holds real pixels of a source whose terms restrict access.

    Args:
        manifest: The set.
    """
    source = manifest.source
    imagenet = re.search(r"image-?net(?!te)", source.id.lower()) is not None
    terms = source.licence
    restricted = bool(terms and _GATED_TERMS.search(terms))
    return manifest.real_pixels in ("whole", "crops", "initial") and (restricted or imagenet)
