"""A server on all addresses with ballast in memory: answers each line with its own, and "check" with whether its memory is right."""
import hashlib
import socket
import threading

ballast = [hashlib.sha256(str(number).encode()).digest() * 1024 for number in range(1024)]
listener = socket.create_server(("0.0.0.0", 7000))


def right():
    return all(digest == hashlib.sha256(str(number).encode()).digest() * 1024 for number, digest in enumerate(ballast))


def serve(connection):
    try:
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall((b"right\n" if right() else b"wrong\n") if line == b"check\n" else line)
    except OSError:
        pass


print("READY", flush=True)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
