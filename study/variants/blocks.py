"""What methods share that cut a layer into equal blocks."""

from study.errors import BadInput
from study.variants.base import Site


def sides(site: Site, count: int, knob: str) -> tuple[int, int]:
    """Outputs and inputs of one of `count` equal parts. Raises BadInput where the layer does not divide."""
    if site.O % count or site.I % count:
        raise BadInput(knob, f"{count} does not divide {site.name}, {site.O} x {site.I}", "a divisor of both sides")
    return site.O // count, site.I // count
