"""A process that does to its memory what it is told, line by line: the tracked side of these tests."""
import ctypes, os, random, sys, threading

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
stop = threading.Event()
writer = None


def poke(address, value):
    ctypes.c_ubyte.from_address(address).value = value


def storm(address, pages):
    chance = random.Random(7)
    while not stop.is_set():
        poke(address + chance.randrange(pages) * 4096 + chance.randrange(4096), chance.randrange(256))


print("ready", flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    rest = [int(each, 0) for each in rest]
    answer = 0
    if word == "call":
        answer = libc.syscall(*[ctypes.c_long(each) for each in rest])
        if answer == -1:
            answer = -ctypes.get_errno()
    elif word == "poke":
        poke(*rest)
    elif word == "open":
        answer = os.open("/dev/urandom", os.O_RDONLY)
    elif word == "own":
        answer = os.open(sys.argv[1], os.O_RDWR)
    elif word == "fork":
        # The child writes to the page, says so, and waits for its end.
        reader, done = os.pipe()
        answer = os.fork()
        if answer == 0:
            poke(rest[0], 77)
            os.write(done, b"x")
            threading.Event().wait()
        os.read(reader, 1)
    elif word == "storm":
        stop.clear()
        writer = threading.Thread(target=storm, args=rest)
        writer.start()
    elif word == "calm":
        stop.set()
        writer.join()
    elif word == "exec":
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    print(answer, flush=True)
