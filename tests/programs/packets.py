"""A server whose clients say what it is to do with their connection, and the clients: what a connection lives through in a move.

    packets.py serve PORT
    packets.py ask HOST PORT            says something whenever it is told to, and how the answer came
    packets.py read HOST PORT WHAT      reads nothing until it is told to, and then all
"""

import os
import socket
import struct
import sys
import threading
import time


def pattern(count):
    return bytes((at * 31 >> 3) & 0xFF for at in range(count))


def fill(connection, most):
    """Writes until the queue is full; how much went in."""
    connection.setblocking(False)
    data, done = pattern(most), 0
    try:
        while done < most:
            done += connection.send(data[done:])
    except BlockingIOError:
        pass
    connection.setblocking(True)
    return done


def serve_one(connection):
    lines = connection.makefile("rb")
    what = lines.readline().split()
    if what[0] == b"echo":
        for line in lines:
            connection.sendall(line)
    elif what[0] == b"pour":
        print("POURED", fill(connection, int(what[1])), flush=True)
        lines.readline()
    elif what[0] == b"bye":
        print("CLOSED", fill(connection, int(what[1])), flush=True)
    lines.close()
    connection.close()


def serve(port):
    listener = socket.create_server(("0.0.0.0", port))
    # Room for a whole answer, so that the program may close its end before the peer has read any of it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200000)
    print("READY", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_one, args=(connection,), daemon=True).start()


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.001)


def retransmitted(connection):
    """`tcpi_total_retrans`."""
    return struct.unpack_from("I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]


def ask(host, port):
    connection = socket.create_connection((host, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = connection.makefile("rb")
    connection.sendall(b"echo\n")

    def said(line):
        connection.sendall(line)
        return lines.readline() == line

    ok = all(said(b"warm %d\n" % number) for number in range(5))
    before = retransmitted(connection)
    print("READY" if ok else "WRONG", flush=True)
    for number in range(1, 100):
        wait_for(f"/tmp/ask{number}")
        line = b"question %d\n" % number
        began = time.monotonic()
        connection.sendall(line)
        print("SENT", number, flush=True)
        if lines.readline() != line:
            print("WRONG", flush=True)
        took = (time.monotonic() - began) * 1000
        print("ANSWER", number, f"{took:.1f} ms, sent again:", retransmitted(connection) - before, flush=True)


def read(host, port, what):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, port))
    connection.sendall(what.encode() + b"\n")
    print("READY", connection.getsockname()[1], flush=True)
    wait_for("/tmp/read")
    if what.startswith("pour"):
        connection.sendall(b"enough\n")
    got = bytearray()
    while piece := connection.recv(65536):
        got += piece
    print("GOT", len(got), "right" if bytes(got) == pattern(len(got)) else "wrong", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            serve(int(port))
        case ["ask", host, port]:
            ask(host, int(port))
        case ["read", host, port, what]:
            read(host, int(port), what)
