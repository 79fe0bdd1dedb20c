"""Lists what there is: methods, recipes, protocols, networks, codecs, measures (`ddkit list`)."""

from __future__ import annotations

from ddkit.core.serialization import PACKAGE
from ddkit.distillers import distiller_names, find_distiller
from ddkit.errors import unknown
from ddkit.evaluation.measures import find_measure, measure_names
from ddkit.format.codecs.registry import codec_names
from ddkit.networks.registry import network_names
from ddkit.specs import Protocol, Recipe

KINDS = ("methods", "recipes", "protocols", "networks", "codecs", "measures")


def list_(what: str) -> dict[str, str]:
    """Return the available options of a kind: name -> one-line description.

    Args:
        what: one of KINDS.

    Raises:
        OptionError: `what` is another word.
    """
    if what == "methods":
        distillers = [find_distiller(name) for name in distiller_names()]
        return {d.name: f"{d.paper}; cost: {d.cost}" for d in distillers}
    if what == "recipes":
        texts = {r.name: (PACKAGE / "recipes" / f"{r.name}.toml").read_text().splitlines() for r in Recipe.shipped()}
        return {name: " ".join(line[2:] for line in lines if line.startswith("# ")) for name, lines in texts.items()}
    if what == "protocols":
        names = sorted(path.stem for path in (PACKAGE / "protocols").glob("*.toml"))
        return {name: Protocol.load(name).about for name in names}
    if what == "networks":
        own = dict.fromkeys(network_names(), "built in")
        return own | {"timm:NAME[@FILE]": "any of timm", "torchvision:NAME[@FILE]": "any of torchvision"}
    if what == "codecs":
        return codec_names()
    if what == "measures":
        measures = [find_measure(name) for name in measure_names()]
        return {
            m.name: f"{', '.join(metric.name for metric in m.metrics)}; cost: {m.cost}; {m.paper}" for m in measures
        }
    raise unknown("list", what, KINDS)
