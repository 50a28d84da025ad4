"""Regular expressions whose time is bounded by their form, whatever text they are tried on.

The library that runs them (Oniguruma) tries each way in which a pattern can match. The forms that
tokenizers are published with need few: here an alternative may hold two unlimited repetitions, and
what follows the second must not be able to fail. One start of a search then takes time in
proportion to the text, and a whole search at most the square of it.
"""

from __future__ import annotations

import re

from mmedge.schema.read import Misfit, show

__all__ = ["check_pattern"]

#: Characters of a pattern, and alternatives of it and of one of its groups.
MAX_PATTERN, MAX_ALTERNATIVES, MAX_IN_GROUP = 4096, 64, 16
#: A repetition of up to this many is short; of more, it counts as unlimited.
SHORT = 4
#: Short repetitions, optional parts and groups with alternatives in one alternative.
MAX_CHOICES = 3

_ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?[A-Za-z0-9_ ]{1,40}\}|x\{[0-9A-Fa-f]{1,6}\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}"
    r"|[sSdDwWhHrntfvae]|[bBAzZ]|[^A-Za-z0-9])",
    re.DOTALL,
)
_TIMES = re.compile(r"\{([0-9]{1,5})?(,)?([0-9]{1,5})?\}")
_GROUP = re.compile(r"\(\?(?:[imx]{0,3}(?:-[imx]{1,3})?:|=|!)")
_EMPTY = {"^", "$"}


def check_pattern(pattern: str, where: str) -> int:
    """How many alternatives may fail after a repetition, and so be tried from many places.

    Raises:
        Misfit: the pattern has a form whose time is not bounded, or one that is not known here.
    """
    if len(pattern) > MAX_PATTERN:
        raise Misfit(where, f"at most {MAX_PATTERN} characters", str(len(pattern)))
    reader = _PatternReader(pattern, where)
    retrying = reader.alternatives(inside=False)
    if reader.at != len(pattern):
        raise reader.fault("an unmatched ')'")
    return retrying


class _PatternReader:
    def __init__(self, pattern: str, where: str) -> None:
        self.pattern, self.where, self.at = pattern, where, 0

    def fault(self, what: str) -> Misfit:
        return Misfit(
            self.where,
            "a pattern of bounded time (at most two repetitions in an alternative, none in groups; "
            "docs/reference/bundle.md)",
            f"{what} at character {self.at} of {show(self.pattern)}",
        )

    def alternatives(self, *, inside: bool) -> int:
        """Read up to the end or the group's ')'; how many alternatives may retry."""
        retrying, count = 0, 0
        while True:
            retrying += self._alternative(inside=inside)
            count += 1
            most = MAX_IN_GROUP if inside else MAX_ALTERNATIVES
            if count > most:
                raise self.fault(f"more than {most} alternatives")
            if not self._next("|"):
                return retrying

    def _alternative(self, *, inside: bool) -> bool:
        """Read one alternative; whether it may be tried in many ways from one place."""
        unlimited, choices, grouped, retrying = 0, 0, False, False
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            group = self.pattern[self.at] == "("
            branches, is_empty = self._atom(inside=inside)
            least, most = self._times(nothing=is_empty)
            if group and most > 1:
                raise self.fault("a repetition of a group")
            if most > SHORT and inside:
                raise self.fault("a repetition in a group")
            # Where this part can fail, what stands before it is tried again in each other way.
            if least > 0 or is_empty:
                if unlimited == 2:
                    raise self.fault("what can fail after two repetitions")
                if unlimited and (choices > 1 or grouped):
                    raise self.fault("what can fail after a repetition and optional parts")
                retrying = retrying or unlimited > 0 or choices > 1
            if most > SHORT:
                unlimited += 1
                if unlimited > 2:
                    raise self.fault("a third repetition")
                continue
            choices += branches or most != least
            grouped = grouped or branches
            if choices > MAX_CHOICES:
                raise self.fault(f"more than {MAX_CHOICES} optional parts")
        return retrying

    def _atom(self, *, inside: bool) -> tuple[bool, bool]:
        """Read one part; whether it has alternatives, and whether it takes no character."""
        pattern, at = self.pattern, self.at
        first_char = pattern[at]
        if first_char == "\\":
            match = _ESCAPE.match(pattern, at)
            if match is None:
                raise self.fault("an escape that is not known")
            self.at = match.end()
            return False, match[0] in (r"\b", r"\B", r"\A", r"\z", r"\Z")
        if first_char == "[":
            self._class()
            return False, False
        if first_char == "(":
            if inside:
                raise self.fault("a group in a group")
            match = _GROUP.match(pattern, at)
            if match is None and pattern.startswith("(?", at):
                raise self.fault("a group of a kind that is not known")
            self.at = match.end() if match else at + 1
            bar = self.at
            self.alternatives(inside=True)
            branches = "|" in pattern[bar : self.at]
            if not self._next(")"):
                raise self.fault("a group without an end")
            return branches, False
        if first_char in "*+?{":
            raise self.fault("a repetition of nothing")
        self.at += 1
        return False, first_char in _EMPTY

    def _class(self) -> None:
        """Read ``[...]``, with classes inside it."""
        depth, self.at = 1, self.at + 1
        # A ']' that comes first is a character of the class.
        self._next("^")
        self._next("]")
        while depth:
            if self.at >= len(self.pattern):
                raise self.fault("a class without an end")
            char = self.pattern[self.at]
            if char == "\\":
                match = _ESCAPE.match(self.pattern, self.at)
                if match is None:
                    raise self.fault("an escape that is not known")
                self.at = match.end()
                continue
            depth += (char == "[") - (char == "]")
            self.at += 1

    def _times(self, *, nothing: bool) -> tuple[int, int]:
        """Read how often the part before may come: least and most."""
        many = 1 << 30
        sign = self.pattern[self.at : self.at + 1]
        if sign in ("*", "+", "?") and sign:
            self.at += 1
            least, most = {"*": (0, many), "+": (1, many), "?": (0, 1)}[sign]
            # Lazy or possessive: the same ways, in another order or fewer.
            if not self._next("?"):
                self._next("+")
        elif match := _TIMES.match(self.pattern, self.at):
            if match[1] is None and match[3] is None:
                raise self.fault("a repetition without a number")
            self.at = match.end()
            least = int(match[1] or 0)
            most = least if not match[2] else int(match[3]) if match[3] else many
            if most < least or self.pattern[self.at : self.at + 1] in ("+", "*"):
                raise self.fault("a repetition of a repetition")
            self._next("?")
        else:
            return (0, 1) if nothing else (1, 1)
        if self.pattern[self.at : self.at + 1] in ("*", "+", "?", "{") and self.at < len(
            self.pattern
        ):
            raise self.fault("a repetition of a repetition")
        if nothing:
            raise self.fault("a repetition of what takes no character")
        return least, most

    def _next(self, char: str) -> bool:
        """Whether ``char`` comes next; it is then read."""
        if self.pattern.startswith(char, self.at):
            self.at += 1
            return True
        return False
