"""A process that lives in memory of which pages are missing, and verifies every byte that it sees. Pages hold (number * 7 + 3) % 251."""
import ctypes, hashlib, mmap, os, random, sys, threading

PAGE = 4096
PAGES = 1200
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(number, *arguments):
    result = libc.syscall(number, *[ctypes.c_long(each) for each in arguments])
    if result == -1:
        raise OSError(ctypes.get_errno(), f"call {number}")
    return result


def look(address):
    return ctypes.string_at(address, PAGE)


def expected(page):
    return bytes([(page * 7 + 3) % 251]) * PAGE


def verify(address, page, what):
    if look(address) != expected(page):
        print(f"WRONG: {what}: page {page} begins with {look(address)[:4]}", flush=True)
        os._exit(1)


at = call(9, 0, PAGES * PAGE, 3, 0x22, -1, 0)
call(28, at, PAGES * PAGE, 15)
fd = call(323, 0o2004000)
print(at, PAGES, fd, flush=True)
sys.stdin.readline()
os.close(fd)

chance = random.Random(5)


def wander(first, last):
    own = random.Random(first)
    for _ in range(150):
        page = own.randrange(first, last)
        verify(at + page * PAGE, page, "wandering")


threads = [threading.Thread(target=wander, args=(n * 100, n * 100 + 100)) for n in range(3)]
for thread in threads:
    thread.start()

# Children see what is missing in their parent, at the moment of the fork and after.
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        for page in chance.sample(range(300, 500), 60):
            verify(at + page * PAGE, page, f"child {number}")
        os._exit(0)
    children.append(pid)

# What is given back is zero, and stays so.
call(28, at + 500 * PAGE, 50 * PAGE, 4)
# What moves keeps what was missing in it.
elsewhere = call(9, 0, 100 * PAGE, 0, 0x22, -1, 0)
call(25, at + 600 * PAGE, 100 * PAGE, 100 * PAGE, 3, elsewhere)
# What is unmapped is nobody's; what is mapped there anew is empty.
call(11, at + 700 * PAGE, 50 * PAGE)
call(9, at + 700 * PAGE, 50 * PAGE, 3, 0x32, -1, 0)
# Written whole before it has come.
for page in range(800, 820):
    ctypes.memset(at + page * PAGE, 9, PAGE)

for page in chance.sample(range(100), 100):
    verify(elsewhere + page * PAGE, 600 + page, "moved")
for page in list(range(500, 550)) + list(range(700, 750)):
    if any(look(at + page * PAGE)):
        print(f"WRONG: page {page} is not zero", flush=True)
        os._exit(1)
for thread in threads:
    thread.join()
print("lived", flush=True)
# All has arrived by now: every byte once more, without anybody who could help.
sys.stdin.readline()
for page in range(PAGES):
    if page in range(500, 550) or page in range(700, 750) or page in range(600, 700):
        continue
    if page in range(800, 820):
        if look(at + page * PAGE) != bytes([9]) * PAGE:
            print(f"WRONG: what was written to page {page} is lost", flush=True)
            os._exit(1)
    else:
        verify(at + page * PAGE, page, "at the end")
for pid in children:
    _, status = os.waitpid(pid, 0)
    if status != 0:
        print(f"WRONG: a child ended with {status}", flush=True)
        os._exit(1)
print("OK", flush=True)
