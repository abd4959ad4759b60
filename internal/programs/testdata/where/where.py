# SPDX-License-Identifier: Apache-2.0
# where.py connect ADDRESS PORT: makes a connection for each line of its input and keeps
# it, as the C programs of internal/specimen do.
import socket, sys

kept = []


def dial_one(address):
    s = socket.socket()
    s.connect(address)
    kept.append(s)
    print(s.getsockname()[1], s.fileno(), flush=True)


def serve():
    for line in sys.stdin:
        dial_one((sys.argv[2], int(sys.argv[3])))


serve()
