"""Hears and sends beacons in a segment: INTERFACE MODE FILE [SECONDS RATE].

capture: writes what it hears in SECONDS to FILE, a line of hexadecimal digits for each.
replay:  sends what is in FILE, from its own address.
tell:    the same, each once, RATE a second.
forge:   the same as if it were its own, and as if newer, with signatures that are none.
flood:   RATE forged ones a second for SECONDS, each from another account."""

import os
import random
import socket
import struct
import sys
import time

GROUP, PORT = "ff12::5762", 6702
interface, mode, path = sys.argv[1:4]
index = socket.if_nametoindex(interface)
for line in open("/proc/net/if_inet6"):
    address, _, _, _, _, name = line.split()
    if name == interface and address.startswith("fe80"):
        own = bytes.fromhex(address)

if mode == "capture":
    ear = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    ear.bind((GROUP, PORT, 0, index))
    group = socket.inet_pton(socket.AF_INET6, GROUP)
    ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", index))
    ear.settimeout(0.2)
    until, heard = time.monotonic() + float(sys.argv[4]), []
    while time.monotonic() < until:
        try:
            heard.append(ear.recv(2000))
        except TimeoutError:
            pass
    with open(path, "w") as file:
        file.writelines(beacon.hex() + "\n" for beacon in heard)
    print(len(heard))
    sys.exit()

beacons = [bytes.fromhex(line) for line in open(path)]


def forged(beacon, account):
    """As from here, newer, and signed by nobody; of another account if that is wanted."""
    head, count, source = beacon[:-92], beacon[-91:-83], beacon[-82:-66]
    assert beacon[-92] == 0x1B and source[:2] == b"\xfe\x80" and beacon[-66:-64] == b"\x58\x40"
    if account:
        head = head[:7] + random.randbytes(20) + head[27:]
    newer = (int.from_bytes(count, "big") + (1 << 40)).to_bytes(8, "big")
    return head + b"\x1b" + newer + b"\x50" + own + b"\x58\x40" + random.randbytes(64)


mouth = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
mouth.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
mouth.bind(("::", 0))
to = (GROUP, PORT, 0, index)
if mode == "replay":
    for _ in range(20):
        for beacon in beacons:
            mouth.sendto(beacon, to)
elif mode == "tell":
    for beacon in beacons:
        mouth.sendto(beacon, to)
        time.sleep(1 / int(sys.argv[5]))
elif mode == "forge":
    for _ in range(20):
        for beacon in beacons:
            mouth.sendto(forged(beacon, account=False), to)
else:
    seconds, rate = float(sys.argv[4]), int(sys.argv[5])
    flood = [forged(beacons[i % len(beacons)], account=True) for i in range(5000)]
    began, sent = time.monotonic(), 0
    while sent < seconds * rate:
        mouth.sendto(flood[sent % len(flood)], to)
        sent += 1
        ahead = sent / rate - (time.monotonic() - began)
        if ahead > 0.002:
            time.sleep(ahead)
    print(round(sent / (time.monotonic() - began)))
