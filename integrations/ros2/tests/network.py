"""A network of this run alone, as `unshare --net` gives it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def only_loopback():
    """Bring up the loopback, and say what is wrong where there is any other network.

    Fast DDS binds every address, whatever it is told: so nobody else hears or speaks.
    """
    names = [name for _, name in socket.if_nameindex()]
    if names != ["lo"]:
        return f"this wants no network but lo, and there are {names}; run `make ros2`"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return ""
