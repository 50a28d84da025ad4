"""The end of a stream, which needs no more of it than its parts: it may be gone already."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading

    from mmedge.stream.clock import StreamClock
    from mmedge.stream.executors import Driver
    from mmedge.stream.state_machine import StreamStateMachine

__all__ = ["close_stream"]


def close_stream(
    core: StreamStateMachine, clock: StreamClock, lock: threading.RLock, driver: Driver
) -> None:
    """End it, and free the networks that it loaded itself."""
    with lock:
        core.close(clock.last)
        driver.wake()
        owned, core.owned = core.owned, []
    driver.stop()
    for network in owned:
        if network.close is not None:
            network.close()
