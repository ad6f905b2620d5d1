"""Loads a redis over one connection, has it save itself (BGSAVE) when told, and says whether what was saved is what must be in it.

Arguments: address, port, keys. On standard input:
  bgsave        has it fork and save; says `begun` with the number of transactions that were done before
  saved         waits until that is over; says `saved` with the number of transactions done by then
  last          the number of transactions whose reply has come
  check P A B   looks at the redis at port P, which has read what was saved between transactions A and B
  stop          ends the load; looks at every key of the redis itself
Each answer is one line; `wrong ..` is the end.

A transaction counts up and writes its number to two keys: a snapshot in which they differ was not one moment. The other keys never
change; each of them can be told from every other and from zeros.
"""
import socket, sys, threading

PAIRS = 500
FILL = """for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do redis.call('SET', 's:' .. i, string.rep(i .. ',', 300)) end return 1"""
STEP = f"""local n = redis.call('INCR', 'n')
local i, value = n % {PAIRS}, n .. ':' .. string.rep('x', 200)
redis.call('SET', 'a:' .. i, value) redis.call('SET', 'b:' .. i, value) return n"""
LOOK = """local wrong = 0
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  if redis.call('GET', 's:' .. i) ~= string.rep(i .. ',', 300) then wrong = wrong + 1 end
end return wrong"""
PAIR = f"""local n, wrong = tonumber(redis.call('GET', 'n') or 0), 0
for i = 0, {PAIRS - 1} do
  local value = n - (n - i) % {PAIRS}
  if value > 0 then
    local must = value .. ':' .. string.rep('x', 200)
    if redis.call('GET', 'a:' .. i) ~= must or redis.call('GET', 'b:' .. i) ~= must then wrong = wrong + 1 end
  end
end return {{n, wrong}}"""


class Redis:
    def __init__(self, address, port):
        self.line = socket.create_connection((address, port), timeout=120)
        self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.replies = self.line.makefile("rb")

    def __call__(self, *words):
        words = [str(word).encode() for word in words]
        self.line.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        return self.reply()

    def reply(self):
        line = self.replies.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("the connection ended")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise OSError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest.decode()
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return self.replies.read(int(rest) + 2)[:-2].decode() if int(rest) >= 0 else None


class Load(threading.Thread):
    """Transaction after transaction: each reply is the number after the one before, or one was lost or done twice."""

    def __init__(self, redis):
        super().__init__(daemon=True)
        self.redis, self.done, self.fault, self.ends = redis, 0, None, False

    def run(self):
        try:
            while not self.ends:
                number = self.redis("EVAL", STEP, 0)
                if number != self.done + 1:
                    raise OSError(f"transaction {number} after {self.done}")
                self.done = number
        except Exception as error:
            self.fault = error


def in_parts(redis, script, keys):
    """A script over all keys, in parts: nobody is to wait for all of it."""
    return [redis("EVAL", script, 0, first, min(first + 499, keys)) for first in range(1, keys + 1, 500)]


def check(redis, keys, least, most):
    wrong = sum(in_parts(redis, LOOK, keys))
    number, pairs = redis("EVAL", PAIR, 0)
    if wrong or pairs or not least <= number <= most or redis("DBSIZE") < keys:
        raise OSError(f"{wrong} keys and {pairs} pairs are wrong; transaction {number} of {least} to {most}")
    return f"right {number}"


def main():
    address, port, keys = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    redis = Redis(address, port)
    in_parts(redis, FILL, keys)
    load = Load(Redis(address, port))
    load.start()
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            if load.fault:
                raise load.fault
            match line.split():
                case ["bgsave"]:
                    before = load.done
                    answer = redis("BGSAVE")
                    said = f"begun {before}" if answer == "Background saving started" else f"wrong {answer}"
                case ["saved"]:
                    while "rdb_bgsave_in_progress:1" in redis("INFO", "persistence"):
                        threading.Event().wait(0.02)
                    well = "rdb_last_bgsave_status:ok" in redis("INFO", "persistence")
                    # One may have been done whose reply has not come.
                    said = f"saved {load.done + 1}" if well else "wrong: it says that it could not save"
                case ["last"]:
                    said = f"last {load.done}"
                case ["check", other, least, most]:
                    said = check(Redis(address, int(other)), keys, int(least), int(most))
                case ["stop"]:
                    load.ends = True
                    load.join(60)
                    if load.fault:
                        raise load.fault
                    said = check(redis, keys, load.done, load.done)
                case other:
                    said = f"wrong: {other}"
        except Exception as error:
            said = f"wrong {error}"
        print(said, flush=True)


main()
