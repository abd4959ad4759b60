# SPDX-License-Identifier: Apache-2.0
# forking.py: a server that forks a child for each connection. The child reads all and
# never closes. Says where it listens, and each child what it holds; all wait for the
# end of their input.
import os, socket, threading

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)


def serve():
    while True:
        s, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            while s.recv(4096):
                pass
            print(os.getpid(), s.fileno(), "%s:%d" % s.getsockname(), "eof_read")
            print("done", flush=True)
            os.read(0, 1)  # sys.stdin is locked for good: the parent was reading it
            os._exit(0)
        s.close()


threading.Thread(target=serve, daemon=True).start()
os.read(0, 1)
