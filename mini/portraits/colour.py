"""Colours as (red, green, blue) 0..255."""

RGB = tuple[int, int, int]

WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)


def mix(one: RGB, other: RGB, share: float) -> RGB:
    """`share` 0 gives one, 1 the other."""
    red, green, blue = (int(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def shade(colour: RGB, amount: float) -> RGB:
    """Darker, and a little warmer as shadows on skin and cloth are; amount 0..1."""
    return mix(colour, (colour[0] // 4, colour[1] // 8, colour[2] // 7), amount)


def tint(colour: RGB, amount: float) -> RGB:
    """Lighter; amount 0..1."""
    return mix(colour, WHITE, amount)


def css(colour: RGB) -> str:
    """#rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def luma(colour: RGB) -> float:
    """Perceived brightness, 0..255 (Rec. 601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
