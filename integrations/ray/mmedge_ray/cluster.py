"""Ray: a cluster that is there, or one on this machine; and room on it for actors."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

from mmedge import BackendError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Ray reads it when it is imported: without it, it tells its makers of each run.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__all__ = ["check_room", "connect", "not_started"]

#: Bytes of the object store of a Ray on this machine: what crosses it is a line for each recording.
STORE_BYTES = 128 << 20
#: Nodes that a message names.
MOST_NODES = 8


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Be connected to Ray: as the process is already, to a cluster, or to one that is started here.

    Args:
        address: of a cluster, such as ``auto`` or ``10.0.0.1:6379``. None: that of the environment
            variable RAY_ADDRESS, else a Ray of this machine alone, on the loopback interface and
            without dashboard, which ends with the block.

    Warns:
        UserWarning: Ray was imported before, so that the one that is started here is open to the
            network.

    Raises:
        BackendError: there is no cluster at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not address and "ray" not in sys.modules:
        # Ray replaces 127.0.0.1 by the machine's own address, on which its ports are open to the
        # network, unless it may form no cluster; it reads this when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                object_store_memory=STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BackendError(f"Ray at {address or 'this machine'}: {error}") from error
    try:
        if not address and not _is_local():
            warnings.warn(
                "Ray listens on all interfaces of this machine, for whoever has its token "
                "(~/.ray/auth_token): it was imported before mmedge_ray could ask for the loopback "
                "interface; set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before that",
                stacklevel=4,
            )
        yield
    finally:
        ray.shutdown()


def check_room(actors: int, resources: Mapping[str, float], *, timeout_s: float) -> None:
    """Wait until there is room for actors: those that find none wait for ever, without a word.

    Args:
        actors: how many.
        resources: that each takes, by Ray's names: ``CPU``, ``GPU``, ``memory``.
        timeout_s: most seconds to wait for room, as while other jobs end or nodes join.

    Raises:
        InputError: a Ray of this machine alone can never have room.
        BackendError: there was no room in time.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    there = ray.cluster_resources()
    if _is_local() and (
        lacking := [
            name for name, amount in resources.items() if actors * amount > there.get(name, 0.0)
        ]
    ):
        raise InputError(
            f"{_asked(actors, resources)} cannot be placed: there is "
            f"{_words({name: there.get(name, 0.0) for name in lacking})} in all; ask for fewer "
            "actors, or for less for each"
        )
    group = placement_group([dict(resources)] * actors)
    try:
        if not group.wait(timeout_s):
            raise BackendError(
                f"{_asked(actors, resources)} found no room within {timeout_s:g} s. "
                f"{_there(resources)} Ask for fewer actors or less for each, wait for other jobs "
                "to end, or give it more time"
            )
    finally:
        remove_placement_group(group)


def not_started(actors: int, resources: Mapping[str, float], timeout_s: float) -> BackendError:
    """The error for actors that had room, and are not up."""
    return BackendError(
        f"{_asked(actors, resources)} had room, and not all of them started within "
        f"{timeout_s:g} s: another job took it, or the nodes are too busy. {_there(resources)} "
        "Run it again, or ask for fewer actors"
    )


def _is_local() -> bool:
    """Whether all there is is this machine, and no autoscaler adds to it."""
    import ray

    return len(ray.nodes()) == 1 and ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"


def _there(resources: Mapping[str, float]) -> str:
    """What the cluster has, and what is free."""
    import ray

    whole, free = ray.cluster_resources(), ray.available_resources()
    nodes = [
        _words({name: node["Resources"].get(name, 0.0) for name in resources})
        for node in ray.nodes()
        if node["Alive"]
    ]
    more = "; ..." if len(nodes) > MOST_NODES else ""
    return (
        f"The cluster has {_words({name: whole.get(name, 0.0) for name in resources})}, free are "
        f"{_words({name: free.get(name, 0.0) for name in resources})}. An actor fits on one node, "
        f"and the nodes ({len(nodes)}) have {'; '.join(nodes[:MOST_NODES])}{more}."
    )


def _asked(actors: int, resources: Mapping[str, float]) -> str:
    return f"{actors} actors with {_words(resources)} each"


def _words(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
