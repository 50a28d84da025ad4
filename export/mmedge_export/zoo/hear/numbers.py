"""Numbers from 0 to 99 in words."""

from __future__ import annotations

__all__ = ["in_chinese", "in_english"]

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_DIGITS = "零一二三四五六七八九"


def in_english(number: int) -> str:
    """Such as ``thirty five``.

    Raises:
        ValueError: the number is not from 0 to 99.
    """
    _check(number)
    if number < len(_SMALL):
        return _SMALL[number]
    tens, rest = divmod(number, 10)
    return f"{_TENS[tens]} {_SMALL[rest]}" if rest else _TENS[tens]


def in_chinese(number: int, *, counts: bool = False) -> str:
    """Such as ``三十五``; two things that are counted are ``两``.

    Raises:
        ValueError: the number is not from 0 to 99.
    """
    _check(number)
    if number == 2 and counts:
        return "两"
    tens, rest = divmod(number, 10)
    if not tens:
        return _DIGITS[rest]
    head = "十" if tens == 1 else f"{_DIGITS[tens]}十"
    return head + (_DIGITS[rest] if rest else "")


def _check(number: int) -> None:
    if not 0 <= number <= 99:
        raise ValueError(f"expected a number from 0 to 99, got {number}")
