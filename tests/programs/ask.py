"""A client of echo.py: one connection for as long as it lasts; prints a line for every answer, and how the connection ended."""
import socket
import sys
import time

with socket.create_connection((sys.argv[1], 7000)) as connection:
    connection.settimeout(120)
    number = 0
    try:
        while True:
            number += 1
            connection.sendall(f"{number}\n".encode())
            answer = b""
            while not answer.endswith(b"\n"):
                some = connection.recv(100)
                if not some:
                    print("CLOSED", flush=True)
                    sys.exit(1)
                answer += some
            if answer != f"{number}\n".encode():
                print(f"WRONG {answer!r}", flush=True)
                sys.exit(1)
            print(number, flush=True)
            time.sleep(0.01)
    except ConnectionResetError:
        print("RESET", flush=True)
