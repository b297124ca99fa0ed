"""Delta debugging: what is left when failures cannot be counted, only seen (Zeller & Hildebrandt 2002)."""

from collections.abc import Callable
from itertools import pairwise

from tandem.queries.region import Region


def ddmin(fails: Callable[[Region], bool], items: Region) -> Region:
    """A subset of `items` that fails and that no longer fails when any one item is taken away.

    The algorithm ddmin of A. Zeller and R. Hildebrandt, *Simplifying and isolating failure-inducing input*, IEEE Trans.
    Softw. Eng. 28(2), 2002: try each of n parts, then each complement, then double n. It needs between about
    2·log2(items) runs, for one cause, and items² + 3·items.

    >>> ddmin(lambda region: 3 in region and 12 in region, Region([(0, 16)])).ranges
    ((3, 4), (12, 13))

    Raises:
        ValueError: `items` as a whole does not fail.
    """
    if not fails(items):
        raise ValueError(
            f"items={items} does not fail as a whole, so that no part of it can be to blame; give more items"
        )
    kept, parts = list(items), 2
    while len(kept) > 1:
        cuts = [len(kept) * part // parts for part in range(parts + 1)]
        chunks = [kept[start:stop] for start, stop in pairwise(cuts)]
        rests = [kept[:start] + kept[stop:] for start, stop in pairwise(cuts)] if parts > 2 else []
        if (chunk := _first_failing(fails, chunks)) is not None:
            kept, parts = chunk, 2
        elif (rest := _first_failing(fails, rests)) is not None:
            kept, parts = rest, parts - 1
        elif parts < len(kept):
            parts = min(2 * parts, len(kept))
        else:
            break
    return Region.of(kept)


def _first_failing(fails: Callable[[Region], bool], subsets: list[list[int]]) -> list[int] | None:
    return next((subset for subset in subsets if fails(Region.of(subset))), None)
