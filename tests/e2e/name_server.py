"""Answers every question for an address with the ones it was given: name_server.py ADDRESS IPV4 IPV6"""
import socket
import sys

at, ipv4, ipv6 = sys.argv[1:]
records = {1: socket.inet_aton(ipv4), 28: socket.inet_pton(socket.AF_INET6, ipv6)}
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((at, 53))
print("ready", flush=True)
while True:
    question, asker = server.recvfrom(512)
    end = question.index(b"\0", 12) + 5
    kind = int.from_bytes(question[end - 4 : end - 2], "big")
    record = records.get(kind, b"")
    answer = b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\x3c" + len(record).to_bytes(2, "big") + record
    count = b"\0\1" if record else b"\0\0"
    server.sendto(question[:2] + b"\x81\x80\0\1" + count + b"\0\0\0\0" + question[12:end] + (answer if record else b""), asker)
