"""Sends UDP packets with an IPv4 or IPv6 source of one's choice straight to a TUN device: send_raw.py DEVICE SOURCE DESTINATION"""
import socket
import sys

device, source, destination = sys.argv[1:]
payload = b"spoofed"
ports = (4000).to_bytes(2, "big") + (9).to_bytes(2, "big")
udp = ports + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
if ":" in source:
    head = b"\x60\0\0\0" + len(udp).to_bytes(2, "big") + b"\x11\x40"
    family, kind = socket.AF_INET6, 0x86DD
else:
    head = b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + b"\0\0\0\0\x40\x11"
    family, kind = socket.AF_INET, 0x0800
addresses = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
if family == socket.AF_INET:
    words = head + addresses
    total = sum(int.from_bytes(words[at : at + 2], "big") for at in range(0, len(words), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    head += (0xFFFF - total).to_bytes(2, "big")
raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind))
for _ in range(5):
    raw.sendto(head + addresses + udp, (device, kind))
