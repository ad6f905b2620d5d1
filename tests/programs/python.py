"""Threads that talk over TCP, a pool of workers behind a lock, and a subprocess that is asked over pipes; all at work when moved."""
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time

GO = "/tmp/go"
faults = []
rounds = {"socket": 0, "pipe": 0, "lock": 0}


def over():
    return os.path.exists(GO)


def serve(listener):
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as lines:
        for line in lines:
            connection.sendall(hashlib.sha256(line.strip()).hexdigest().encode() + b"\n")


def ask(port):
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as lines:
        while not over():
            number = str(rounds["socket"]).encode()
            connection.sendall(number + b"\n")
            answer = lines.readline().strip()
            if answer != hashlib.sha256(number).hexdigest().encode():
                faults.append(f"the server said {answer!r} to {number!r}")
                return
            rounds["socket"] += 1


def pipe(child):
    while not over():
        number = rounds["pipe"]
        child.stdin.write(f"{number} * 3\n")
        child.stdin.flush()
        answer = child.stdout.readline().strip()
        if answer != str(number * 3):
            faults.append(f"the subprocess said {answer!r} to {number}")
            return
        rounds["pipe"] += 1


def count(lock):
    while not over():
        with lock:
            rounds["lock"] += 1
        time.sleep(0.001)


listener = socket.create_server(("127.0.0.1", 0))
echo = "import sys\nfor line in sys.stdin: print(eval(line), flush=True)"
child = subprocess.Popen([sys.executable, "-c", echo], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
lock = threading.Lock()
threads = [
    threading.Thread(target=serve, args=(listener,), daemon=True),
    threading.Thread(target=ask, args=(listener.getsockname()[1],)),
    threading.Thread(target=pipe, args=(child,)),
    *(threading.Thread(target=count, args=(lock,)) for _ in range(6)),
]
ballast = {number: hashlib.sha256(str(number).encode()).digest() for number in range(100_000)}
for thread in threads:
    thread.start()
while min(rounds.values()) < 20:
    time.sleep(0.01)
print("READY", flush=True)
while not over():
    time.sleep(0.01)
for thread in threads[1:]:
    thread.join()
child.stdin.close()
if child.wait() != 0:
    faults.append("the subprocess failed")
for number, digest in ballast.items():
    if digest != hashlib.sha256(str(number).encode()).digest():
        faults.append(f"memory of {number}")
print("WRONG: " + "; ".join(faults) if faults else "OK", flush=True)
sys.exit(bool(faults))
