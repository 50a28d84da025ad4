"""Points of the curve of Ed25519 (RFC 8032, 5.1), to make what no library signs."""

from __future__ import annotations

__all__ = ["BASE", "ORDER", "ORDER_8", "add", "encode", "times"]

P = (1 << 255) - 19
#: The order of the base point.
ORDER = (1 << 252) + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

Point = tuple[int, int]


def add(one: Point, other: Point) -> Point:
    """The sum of two points (x, y)."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P,
    )


def times(factor: int, point: Point) -> Point:
    """A point added to itself."""
    result = (0, 1)
    while factor > 0:
        if factor & 1:
            result = add(result, point)
        point = add(point, point)
        factor >>= 1
    return result


def encode(point: Point) -> bytes:
    """Its 32 bytes: y, and the sign of x above."""
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _with_y(y: int) -> Point:
    """The point of a y whose x is even."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert x * x % P == square
    return (P - x if x & 1 else x), y


BASE = _with_y(4 * pow(5, -1, P) % P)
#: A point of order 8: what the order of the prime's group leaves of another point.
ORDER_8 = next(
    point
    for y in range(3, 100)
    if pow((y * y - 1) * pow(D * y * y + 1, -1, P), (P - 1) // 2, P) == 1
    if times(4, point := times(ORDER, _with_y(y))) != (0, 1)
)
