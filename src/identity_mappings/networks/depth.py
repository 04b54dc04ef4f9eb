"""Which depths the papers' CIFAR networks can have. Needs no torch, so that parameters are checked at once."""

# Weighted layers of a unit; three stages of n such units, and two layers more, make the depth.
LAYERS_OF_UNIT = {"single": 1, "basic": 2, "bottleneck": 3}


def units_per_stage(unit: str, depth: int) -> int:
    """Units in each of the three stages: n of depth 6n+2 (basic) or 9n+2 (bottleneck), 2n of 6n+2 (1-layer skip).

    he2015, Section 4.2; he2016, Appendix and Table 3.

    Raises:
        ValueError: no such unit, or a depth that it cannot make.
    """
    if unit not in LAYERS_OF_UNIT:
        raise ValueError(f"unit {unit!r} is none of {', '.join(LAYERS_OF_UNIT)}")
    period = 9 if unit == "bottleneck" else 6
    if depth < period + 2 or (depth - 2) % period:
        lower = max(period + 2, depth - (depth - 2) % period)
        raise ValueError(f"depth {depth} is not {period}n+2, which {unit} units need: take {lower} or {lower + period}")
    return (depth - 2) // (3 * LAYERS_OF_UNIT[unit])
