"""Whether a sensor is well: what befell its newest sample, and whether it was lost."""

from __future__ import annotations

__all__ = ["Presence"]


class Presence:
    """What samples and results say of one sensor.

    Args:
        required: whether its modality is, and so has no stand-in.
        recover_after: good samples after which a lost optional one is back.

    Attributes:
        problem: what befell the newest sample if it was bad; None: it was good.
        lying: whether the content of the newest samples was bad, which says that the sensor is
            faulty and not only late.
        refusal: why the newest sample was dropped, for results that use an older one; empty: it was
            not.
    """

    def __init__(self, *, required: bool, recover_after: int) -> None:
        self._required, self._recover_after = required, recover_after
        self.begin()

    def begin(self, problem: str | None = None) -> None:
        """Begin as if nothing had come; ``problem`` is why it is absent until something does."""
        self.problem = problem
        self.refusal = ""
        self.lying = self._is_lost = self._was_used = False
        self._good = 0

    def note_good(self) -> None:
        """A good sample came."""
        self.problem = None
        self.refusal = ""
        self.lying = False
        self._good += 1

    def note_problem(self, reason: str, *, lying: bool) -> None:
        """A bad sample came; ``lying``: that is about its content."""
        self.problem = reason
        self.lying = self.lying or lying
        self._good = 0

    def recovering(self) -> str | None:
        """How far a lost sensor is from being used again; None: it is not lost."""
        if self._is_lost and self._good < self._recover_after:
            return f"recovering ({self._good} of {self._recover_after})"
        return None

    def conclude(self, reason: str | None) -> None:
        """Note that a result used the modality (None) or did without it.

        An optional modality that a result used and a later one did without is lost; it is back
        after ``recover_after`` good samples in a row, so that a sensor that comes and goes does
        not make the results flicker.
        """
        if self._required:
            return
        if reason is None:
            self._was_used, self._is_lost = True, False
        elif self._was_used and not (
            self._is_lost and reason.startswith(("recovering", "encoder_error"))
        ):
            self._is_lost = True
            self._good = 0
