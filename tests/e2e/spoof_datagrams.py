"""Sends the datagrams on standard input, each after its length in two bytes, again and again to ADDRESS PORT, RATE of them a
second for SECONDS, each from another address in 198.18.0.0/15 and another port. Prints how many."""

import random
import socket
import struct
import sys
import time

address, port, rate, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
stream = sys.stdin.buffer.read()
datagrams, at = [], 0
while at < len(stream):
    length = int.from_bytes(stream[at : at + 2], "big")
    datagrams.append(stream[at + 2 : at + 2 + length])
    at += 2 + length

sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
to = socket.inet_aton(address)
began, sent = time.monotonic(), 0
while time.monotonic() - began < seconds:
    payload = datagrams[sent % len(datagrams)]
    source = struct.pack("!I", 0xC6120000 | random.getrandbits(17))
    # The kernel fills in the length of the packet and the header's checksum; UDP over IPv4 may do without its own.
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0, source, to)
    udp = struct.pack("!HHHH", random.randrange(1024, 65536), port, 8 + len(payload), 0)
    sender.sendto(header + udp + payload, (address, 0))
    sent += 1
    ahead = sent / rate - (time.monotonic() - began)
    if ahead > 0.002:
        time.sleep(ahead)
print(sent)
