"""An interactive shell on a pseudo-terminal, with a job in the background and an editor's settings; typed at before and after."""
import os
import pty
import sys
import termios
import time

GO = "/tmp/go"


heard = b""


def until(text, seconds=30):
    """Reads until a text comes; what follows it is kept for the next time."""
    global heard
    said, end = heard, time.time() + seconds
    os.set_blocking(master, False)
    while text not in said:
        if time.time() > end:
            print(f"WRONG: waited for {text!r}, got {said!r}", flush=True)
            sys.exit(1)
        try:
            said += os.read(master, 4096)
        except BlockingIOError:
            time.sleep(0.005)
    heard = said[said.index(text) + len(text) :]


def type_in(text):
    os.write(master, text.encode())


pid, master = pty.fork()
if pid == 0:
    os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"], {"PS1": "prompt> ", "PATH": "/usr/bin:/bin", "TERM": "vt100"})
termios.tcsetwinsize(master, (31, 97))
until(b"prompt> ")
type_in("secret=41; sleep 1000 & jobs -l\n")
until(b"Running")
type_in("cat -u | tr a-z A-Z\n")
time.sleep(0.3)
print("READY", flush=True)
while not os.path.exists(GO):
    time.sleep(0.01)
# The pipeline in the foreground still reads; its end, ^C, the shell's variable, the job, the window.
type_in("still here\n\004")
until(b"STILL HERE")
until(b"prompt> ")
type_in("sleep 500\n")
time.sleep(0.3)
type_in("\003")
until(b"prompt> ")
type_in("echo is $((secret + 1)); stty size; kill %1; wait %1; echo job $?\n")
until(b"is 42")
until(b"31 97")
until(b"job 143")
type_in("exit 7\n")
_, status = os.waitpid(pid, 0)
if os.waitstatus_to_exitcode(status) != 7:
    print(f"WRONG: the shell ended with {status}", flush=True)
    sys.exit(1)
print("OK", flush=True)
