# A program that keeps its data as most do: a data base whose journal is there during a transaction only, and a log that is put aside
# when it is long. What it needs is in its directory, and at no moment is all of it open. Told to end, it reads everything back.
import os, sys, time

SIZE = 512
place, reference = sys.argv[1], open(sys.argv[2])
base = open(place + "/base", "w+b", buffering=0)


def record(number):
    return f"{number:>{SIZE - 1}}\n".encode()


def commit(number):
    # The records that are about to change are put aside first, and are back if the change was cut short.
    spot = number % 100
    old = os.pread(base.fileno(), SIZE, spot * SIZE)
    with open(place + "/base-journal", "wb") as journal:
        journal.write(old)
    os.pwrite(base.fileno(), record(number), spot * SIZE)
    with open(place + "/base-journal", "rb") as journal:
        if journal.read() != old:
            sys.exit(f"WRONG: the journal of {number}")
    os.unlink(place + "/base-journal")


with open(place + "/settings", "w") as settings:
    settings.write("written once\n")
log, logs, number = open(place + "/log", "a", buffering=1), 0, 0
print("READY", flush=True)
while not os.path.exists("/tmp/go"):
    commit(number)
    print(number, file=log)
    number += 1
    if number % 20 == 0:
        log.close()
        os.rename(place + "/log", f"{place}/log.{logs}")
        log, logs = open(place + "/log", "a", buffering=1), logs + 1
    time.sleep(0.005)
wrong = []
with open(place + "/base", "rb") as again:
    latest = [again.read(SIZE) for _ in range(min(number, 100))]
if latest != [record(max(each for each in range(spot, number, 100))) for spot in range(len(latest))]:
    wrong.append("base")
lines = []
for name in [f"log.{each}" for each in range(logs)] + ["log"]:
    with open(f"{place}/{name}") as each:
        lines += [int(line) for line in each]
if lines != list(range(number)):
    wrong.append("log")
for name, content in [("settings", "written once\n"), ("kept", "never touched\n")]:
    if open(f"{place}/{name}").read() != content:
        wrong.append(name)
if reference.read() != "read only\n":
    wrong.append("reference")
print("WRONG: " + " ".join(wrong) if wrong else "OK", number, flush=True)
sys.exit(bool(wrong))
