# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks by every kind of network, and by sockets that are none."""

from __future__ import annotations

import struct
from collections.abc import Callable

from .attacker import Attacker, Prevented, Stopped
from .table import add, attack, stop

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET = 1, 2, 3, 5
NO_CAPABILITY = stop("capabilities", "EPERM", "EACCES")
NO_ROUTE = stop("network-namespace", "ENETUNREACH")
NO_PORT = stop("landlock", "EACCES", "ENETUNREACH")  # Landlock knows ports from Linux 6.7 on


def _loopback(port: int) -> bytes:
    return struct.pack("<H", AF_INET) + struct.pack(">H", port) + bytes([127, 0, 0, 1]) + bytes(8)


def _unix(path: bytes) -> bytes:
    return struct.pack("<H", AF_UNIX) + path


def _must_be_acknowledged(attacker: Attacker, link: int) -> None:
    answer = attacker.buffer(256)
    attacker.call("recvfrom", link, answer, 256, 0x40, None, None)  # MSG_DONTWAIT: the answer is there at once
    (number,) = struct.unpack_from("i", answer.raw, 16)
    if number:
        raise Prevented("the kernel's answer is an error")


@attack(without=NO_PORT)
def connect_to_a_service(attacker: Attacker) -> None:
    """Talk to a service that listens on this host's loopback."""
    address = _loopback(attacker.targets["tcp-port"])
    attacker.call("connect", attacker.call("socket", AF_INET, SOCK_STREAM, 0), address, len(address))


@attack(without=NO_ROUTE)
def send_a_datagram(attacker: Attacker) -> None:
    """Send what it found out to anybody, by UDP."""
    address = _loopback(attacker.targets["tcp-port"])
    attacker.call("sendto", attacker.call("socket", AF_INET, SOCK_DGRAM, 0), b"secret", 6, 0, address, len(address))


@attack(without=NO_PORT)
def connect_over_ipv6(attacker: Attacker) -> None:
    """Talk to a service of this host over IPv6."""
    address = struct.pack("<H", AF_INET6) + struct.pack(">HI", attacker.targets["tcp-port"], 0) + bytes(15) + b"\x01"
    address += bytes(4)
    attacker.call("connect", attacker.call("socket", AF_INET6, SOCK_STREAM, 0), address, len(address))


@attack(without=stop("network-namespace", "ECONNREFUSED", "EPERM"))
def connect_to_an_abstract_socket(attacker: Attacker) -> None:
    """Talk to a service of this host at an abstract Unix socket."""
    address = _unix(b"\0" + attacker.targets["abstract"].encode())
    attacker.call("connect", attacker.call("socket", AF_UNIX, SOCK_STREAM, 0), address, len(address))


@attack(without=stop("mount-namespace", "ENOENT"))
def connect_to_a_socket_file(attacker: Attacker) -> None:
    """Talk to a service of this host, D-Bus say, at its Unix socket's path."""
    address = _unix(attacker.path("socket"))
    attacker.call("connect", attacker.call("socket", AF_UNIX, SOCK_STREAM, 0), address, len(address))


@attack(without=stop("capabilities", "EPERM"))
def send_raw_packets(attacker: Attacker) -> None:
    """Send packets with forged senders."""
    attacker.call("socket", AF_INET, SOCK_RAW, 255)


@attack(without=stop("capabilities", "EPERM"))
def listen_to_all_packets(attacker: Attacker) -> None:
    """See every packet of the host."""
    attacker.call("socket", AF_PACKET, SOCK_RAW, 0x300)


@attack(without=stop("capabilities", "prevented"))
def change_an_interface(attacker: Attacker) -> None:
    """Change the host's network through netlink: add an interface."""
    link = attacker.call("socket", AF_NETLINK, SOCK_RAW, 0)
    body = struct.pack("BxHiII", 0, 0, 0, 1, 1) + struct.pack("HH", 12, 3) + b"canary0\0"
    message = struct.pack("IHHII", 16 + len(body), 16, 0x605, 1, 0) + body
    attacker.call("sendto", link, message, len(message), 0, None, 0)
    _must_be_acknowledged(attacker, link)


@attack(without=stop("network-namespace", "prevented", "EAGAIN", "EPERM", "ECONNREFUSED", "EPROTONOSUPPORT"))
def read_the_audit_log(attacker: Attacker) -> None:
    """Take part in the host's audit, through netlink."""
    link = attacker.call("socket", AF_NETLINK, SOCK_RAW, 9)
    attacker.call("sendto", link, struct.pack("IHHII", 16, 1000, 5, 1, 0), 16, 0, None, 0)
    _must_be_acknowledged(attacker, link)


@attack(without=stop("nothing", "succeeded"), gains="a pair of sockets that lead nowhere but to itself")
def make_a_pair_of_sockets(attacker: Attacker) -> None:
    """Have sockets of its own, to pass fds to itself with."""
    attacker.call("socketpair", AF_UNIX, SOCK_STREAM, 0, attacker.buffer(8))


@attack(by=stop("capabilities", "EPERM"), without=stop("capabilities", "EPERM"), peers=False)
def speak_as_somebody_else(attacker: Attacker) -> None:
    """Send the supervisor a message with forged credentials: pid 1, uid 0."""
    data = attacker.buffer(1)
    vector = attacker.buffer(struct.pack("QQ", attacker.address(data), 1))
    control = attacker.buffer(struct.pack("QiiiIIxxxx", 28, 1, 2, 1, 0, 0))
    header = attacker.buffer(
        struct.pack("QIxxxxQQQQi", 0, 0, attacker.address(vector), 1, attacker.address(control), 32, 0)
    )
    attacker.call("sendmsg", attacker.fd("channel"), header, 0)


#: Families that are rarely used and often had bugs; most kernels load them as modules at the first socket.
RARE = {
    "the-crypto-interface": (38, SOCK_SEQPACKET), "ipsec-keys": (15, SOCK_RAW),
    "can": (29, SOCK_RAW), "bluetooth": (31, SOCK_RAW), "tipc": (30, SOCK_SEQPACKET), "xdp": (44, SOCK_RAW),
    "rds": (21, SOCK_SEQPACKET), "qipcrtr": (42, SOCK_DGRAM), "smc": (43, SOCK_STREAM), "kcm": (41, SOCK_DGRAM),
    "nfc": (39, SOCK_SEQPACKET), "llc": (26, SOCK_STREAM), "mctp": (45, SOCK_DGRAM), "phonet": (35, SOCK_DGRAM),
}  # fmt: skip


def _rare(family: int, kind: int) -> Callable[[Attacker], None]:
    def work(attacker: Attacker) -> None:
        attacker.call("socket", family, kind, 0)

    return work


for _name, (_family, _kind) in RARE.items():
    add(
        _rare(_family, _kind),
        f"open-{_name}",
        f"Reach the kernel's code for {_name.replace('-', ' ')} (address family {_family}).",
        stop("kernel", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EPERM", "EINVAL", "succeeded"),
        gains="a socket in a network namespace without interfaces: the family's code in the kernel, and no network",
    )


@attack(
    without=stop("nothing", "succeeded", "EAFNOSUPPORT", "ENODEV"),
    gains="vsock, which no network namespace hides: services of this host and of its hypervisor that listen there",
)
def open_vsock(attacker: Attacker) -> None:
    """Talk to the hypervisor, or to services of this host, over vsock."""
    attacker.call("socket", 40, SOCK_STREAM, 0)


@attack(without=stop("kernel", "prevented", "succeeded"), gains="sockets of families that this kernel has")
def open_every_other_family(attacker: Attacker) -> None:
    """Find any address family at all that gives a socket."""
    usual = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, *(family for family, _ in RARE.values())}
    found = []
    for family in range(1, 64):
        if family in usual:
            continue
        try:
            attacker.call("socket", family, SOCK_RAW, 0)
            found.append(family)
        except Stopped:
            continue
    if not found:
        raise Prevented("no other family gave a socket")
