"""Asks SERVER, at PORT, for the AAAA records of each NAME, by UDP and TCP; prints `NAME CODE ADDRESS,...` for each."""

import socket
import struct
import sys

server, port, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]


def question(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 28, 1)


def read(asked, answer):
    number, flags, questions, answers, _, _ = struct.unpack(">HHHHHH", answer[:12])
    assert number == 7 and flags & 0x8000 and questions == 1 and answer[12 : len(asked)] == asked[12:]
    at, found = len(asked), []
    for _ in range(answers):
        _, kind, _, _, length = struct.unpack(">HHHIH", answer[at : at + 12])
        assert kind == 28 and length == 16
        found.append(socket.inet_ntop(socket.AF_INET6, answer[at + 12 : at + 28]))
        at += 28
    return flags & 15, ",".join(found)


udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.settimeout(2)
udp.connect((server, port))
tcp = socket.create_connection((server, port), timeout=5)
for name in names:
    asked = question(name)
    udp.send(asked)
    by_udp = read(asked, udp.recv(2000))
    tcp.sendall(struct.pack(">H", len(asked)) + asked)
    (length,) = struct.unpack(">H", tcp.recv(2, socket.MSG_WAITALL))
    assert read(asked, tcp.recv(length, socket.MSG_WAITALL)) == by_udp
    print(name, *by_udp)
