"""A small family that is told what to do, line by line, and writes to its memory all the time: the tracked side of a test."""
import mmap, os, random, sys, threading, time

PAGES = 600
memory = mmap.mmap(-1, PAGES * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held = []


def storm(seed, area, pages):
    chance = random.Random(seed)
    while True:
        area[chance.randrange(pages) * 4096 + chance.randrange(4096)] = chance.randrange(256)
        if chance.random() < 0.01:
            time.sleep(0.001)


def child(seed):
    """Writes to what it has from its parent, and to memory of its own."""
    own = mmap.mmap(-1, 64 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    threading.Thread(target=storm, args=(seed, own, 64), daemon=True).start()
    storm(seed + 1, memory, PAGES)


memory[:] = os.urandom(PAGES) * 4096
threading.Thread(target=storm, args=(1, memory, PAGES), daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    if word == "fork":
        pid = os.fork()
        if pid == 0:
            child(int(rest[0]))
        print(pid, flush=True)
    elif word == "spawn":
        # vfork and execve: for a moment two processes have one memory.
        print(os.posix_spawn("/bin/sleep", ["sleep", "600"], os.environ), flush=True)
    elif word == "exec":
        os.execv(sys.executable, [sys.executable, sys.argv[0]])
    elif word == "map":
        held.append(mmap.mmap(-1, 100 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        held[-1][:] = b"m" * len(held[-1])
        print(0, flush=True)
    elif word == "end":
        os.kill(int(rest[0]), 9)
        os.waitpid(int(rest[0]), 0)
        print(0, flush=True)
