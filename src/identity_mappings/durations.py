"""Times in words."""


def format_duration(seconds: float) -> str:
    """In the unit that a person would use."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (48 * 3600, 3600, "h"), (730 * 86400, 86400, "days")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if unit > 60 and value < 10 else f"{value:.0f} {name}"
    return f"{seconds / 31557600:.1f} years"
