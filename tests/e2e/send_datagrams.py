"""Sends the datagrams on standard input, each after its length in two bytes, to ADDRESS PORT from FROM_PORT (0: any),
RATE of them a second."""

import socket
import sys
import time

address, port, from_port, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
family, _, _, _, to = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
sender = socket.socket(family, socket.SOCK_DGRAM)
sender.bind(("", from_port))

stream = sys.stdin.buffer.read()
began, sent, at = time.monotonic(), 0, 0
while at < len(stream):
    length = int.from_bytes(stream[at : at + 2], "big")
    sender.sendto(stream[at + 2 : at + 2 + length], to)
    at += 2 + length
    sent += 1
    ahead = sent / rate - (time.monotonic() - began)
    if ahead > 0.002:
        time.sleep(ahead)
