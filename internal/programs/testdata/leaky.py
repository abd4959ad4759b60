# SPDX-License-Identifier: Apache-2.0
# leaky.py PORT: connects and never closes. Says what it holds, then waits for the end
# of its input. The first byte tells the test's server what to do: e: close, d: send
# 100 bytes and close.
import os, select, socket, sys

kept = []
for wish, verdict in (b"e", "eof_unread"), (b"e", "eof_read"), (b"d", "data_unread"), (b"d", "eof_read"):
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    s.sendall(wish)
    closed = select.poll()
    closed.register(s, select.POLLRDHUP)
    closed.poll()
    if verdict == "eof_read":
        while s.recv(4096):
            pass
    kept.append(s)
    print(os.getpid(), s.fileno(), "%s:%d" % s.getsockname(), verdict)
print("done", flush=True)
sys.stdin.read()
