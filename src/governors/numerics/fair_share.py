"""Who gives way to whom: a whole divided among ranks, the first rank first."""

from collections.abc import Sequence
from typing import Final

FULL_PPM: Final = 1_000_000


def waterfall_ppm(fraction_ppm: int, mix: Sequence[int]) -> list[int]:
    """Each rank's own share when `fraction_ppm` of all may pass, the first ranks in full as far as that goes.

    `mix` counts what each rank asked for. A rank that asked for nothing has all of what the ranks above it left over;
    while nobody asked for anything, every rank is taken to be alone. Shares never rise from one rank to the next.
    """
    asked = sum(mix)
    if not asked:
        return [fraction_ppm] * len(mix)
    left = fraction_ppm * asked
    shares = []
    for count in mix:
        share = min(FULL_PPM, left // count) if count else FULL_PPM * (left > 0)
        left = max(0, left - count * FULL_PPM)
        shares.append(share)
    return shares


def levels_ppm(reserve_ppm: int, ranks: int) -> list[int]:
    """How full a bucket each rank must leave: nothing for the first, the reserve for the second, and evenly on up.

    So a rank is refused before any rank above it is; and whoever asks alone has the whole inflow.
    """
    step = (FULL_PPM - reserve_ppm) // max(ranks - 1, 1)
    return [0] + [reserve_ppm + step * rank for rank in range(ranks - 1)]
