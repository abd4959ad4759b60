# SPDX-License-Identifier: Apache-2.0
# client.py KIND PORT: has one exchange with a server and stays idle until that has
# closed. Says what it holds, then waits for the end of its input.
import http.client, os, select, socket, ssl, sys

kind, port = sys.argv[1], int(sys.argv[2])
verdict = "tls_close_unread"
if kind == "redis":
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(b"PING\r\n")
    answer = s.recv(100)
    assert answer == b"+PONG\r\n", answer
    verdict = "eof_unread"
else:
    if kind == "http":
        connection = http.client.HTTPConnection("127.0.0.1", port)
        verdict = "eof_unread"
    else:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        version = ssl.TLSVersion.TLSv1_3
        if kind != "tls1.3":
            version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(kind)
        context.minimum_version = context.maximum_version = version
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context)
    connection.request("GET", "/")
    answer = connection.getresponse().read()
    assert answer == b"hello\n", answer
    s = connection.sock
closed = select.poll()
closed.register(s, select.POLLRDHUP)
closed.poll()
print(os.getpid(), s.fileno(), "%s:%d" % s.getsockname(), verdict)
print("done", flush=True)
sys.stdin.read()
