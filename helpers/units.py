"""How a share and a short time are written in a sentence."""


def percent(share: float, digits: int = 0) -> str:
    """A share, 0.5 as `50 %`."""
    return f"{100 * share:.{digits}f} %"


def ms(seconds: float) -> str:
    """A time in milliseconds, 0.0398 s as `39.8 ms`."""
    return f"{1000 * seconds:.1f} ms"
