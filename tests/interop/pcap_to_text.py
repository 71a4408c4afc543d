"""Prints the UDP payloads of a capture as a fixture: `SECONDS SOURCE DESTINATION HEX`, one packet a line.

usage: pcap_to_text.py CAPTURE NOTES PACKETS_MAX

NOTES become the header. A line `@EPOCH TEXT` is an event; its time is printed relative to the first packet.
"""

import ipaddress
import struct
import sys

UDP = 17
# Octets before the IPv6 header: Ethernet, and what `tcpdump -i any` writes (Linux cooked, versions 1 and 2).
LINK_HEADER = {1: 14, 113: 16, 276: 20}


def packets(capture):
    """Time, source, destination and payload of each packet."""
    magic, _, _, _, _, _, link_type = struct.unpack_from("<IHHiIII", capture)
    if magic != 0xA1B2C3D4 or link_type not in LINK_HEADER:
        sys.exit(f"cannot read a capture with magic {magic:#x} and link type {link_type}")
    at = 24
    while at < len(capture):
        seconds, micros, kept, length = struct.unpack_from("<IIII", capture, at)
        frame = capture[at + 16 : at + 16 + kept]
        at += 16 + kept
        if len(frame) < length:
            sys.exit("a packet was not captured whole")
        ip = frame[LINK_HEADER[link_type] :]
        if ip[0] >> 4 != 6 or ip[6] != UDP:
            sys.exit("a packet is not UDP directly over IPv6")
        (udp_length,) = struct.unpack_from(">H", ip, 44)
        source, destination = (ipaddress.IPv6Address(ip[start : start + 16]) for start in (8, 24))
        yield seconds + micros / 1e6, source, destination, ip[48 : 40 + udp_length]


def main():
    capture, notes, packets_max = sys.argv[1:]
    with open(capture, "rb") as file:
        found = list(packets(file.read()))[: int(packets_max)]
    if not found:
        sys.exit(f"{capture}: no packet")
    began, ended = found[0][0], found[-1][0]
    with open(notes, encoding="ascii") as file:
        for line in file.read().splitlines():
            if line.startswith("@"):
                time, text = line[1:].split(" ", 1)
                if float(time) > ended:
                    continue
                line = f"at {max(float(time) - began, 0):.1f} s: {text}"
            print(f"# {line}".rstrip())
    for time, source, destination, payload in found:
        print(f"{time - began:.3f} {source} {destination} {payload.hex()}")


if __name__ == "__main__":
    main()
