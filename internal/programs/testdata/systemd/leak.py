# SPDX-License-Identifier: Apache-2.0
import socket, struct, time
with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    held = []
    def leak(dead):
        held.append(socket.create_connection(listener.getsockname()))
        with listener.accept()[0] as peer:
            if dead:  # by RST
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for i in range(23):
        leak(dead=i < 3)
time.sleep(600)
