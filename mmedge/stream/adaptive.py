"""A stream that goes over to a cheaper variant of its network and back, as the load asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmedge.errors import InputError
from mmedge.stream.clock import read_seconds
from mmedge.stream.variant_policy import DWELL, HOLD, MARGIN, RISK, PolicyOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmedge.machine import SensorFiles
    from mmedge.stream.network import Runnable
    from mmedge.stream.variant_policy import Ceiling

__all__ = ["Adaptive", "hottest"]


@dataclass(frozen=True)
class Adaptive:
    """Variants of one network that a stream chooses from while it runs.

    The stream is made with the best variant. It goes over to the next cheaper one when results risk
    their deadline or a ceiling is passed, and back when all has been calm for a while. Each switch
    is an event, ``variant_switched``, with its reason and figures, and ``result.network`` says
    which variant made a result. All variants stay in memory.

    Attributes:
        cheaper: loaded pipelines of the same network, from the second best to the cheapest. The
            caller closes them after the stream.
        ceilings: figures of the machine that must not stay above a limit.
        risk: see :class:`mmedge.stream.variant_policy.PolicyOptions`, which has the defaults.
        margin: see there.
        dwell_s: see there.
        hold_s: see there.
        read_every_s: seconds from one reading of the ceilings to the next.
        patience_ms: how long a switch may wait for a moment in which no result has to wait.
        policy: the four that say how fast it reacts.
    """

    cheaper: Sequence[Runnable]
    ceilings: Sequence[Ceiling] = ()
    risk: float = RISK
    margin: float = MARGIN
    dwell_s: float = DWELL
    hold_s: float = HOLD
    read_every_s: float = 1.0
    patience_ms: float = 100.0
    policy: PolicyOptions = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: no cheaper variant, or numbers that do not go together.
        """
        if not self.cheaper:
            raise InputError("variants: expected at least one cheaper pipeline, got none")
        names = [ceiling.name for ceiling in self.ceilings]
        if len(set(names)) < len(names) or "share" in names:
            raise InputError(f"variants: ceilings need names of their own, got {names}")
        for name in ("read_every_s", "patience_ms"):
            if read_seconds(getattr(self, name), f"variants: {name}") < 0:
                raise InputError(f"variants: {name} must be 0 or more, got {getattr(self, name)}")
        options = PolicyOptions(self.risk, self.margin, self.dwell_s, self.hold_s)
        object.__setattr__(self, "policy", options)


def hottest(sensors: SensorFiles | None = None) -> Callable[[], float | None]:
    """What reads the highest temperature of the machine, in degrees Celsius, for a ceiling.

    Args:
        sensors: where to look; None: all that Linux tells of. None can be read on a machine
            without, and in many containers: a ceiling on it then never lets a better variant back.
    """
    from mmedge.machine import SensorFiles  # of use to ceilings alone

    files = SensorFiles.find() if sensors is None else sensors

    def read() -> float | None:
        return max(files.temperatures().values(), default=None)

    return read
