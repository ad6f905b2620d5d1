#!/bin/bash
# A pipeline of four: numbers are made, kept in a file, filtered and summed. What comes out must be what follows from what went in.
cd /tmp || exit 2
(
    n=0
    while [ ! -e /tmp/go ]; do
        n=$((n + 1))
        echo "$n"
        [ $((n % 50)) = 0 ] && sleep 0.005
        [ $n = 2000 ] && echo READY >&2
    done
) 2>/dev/stdout 1> >(tee numbers | grep -v 7 | awk '{ count++; sum += $1 } END { print count, sum }' > result) | cat
for _ in $(seq 500); do [ -s result ] && break; sleep 0.01; done
wanted=$(grep -v 7 numbers | awk '{ count++; sum += $1 } END { print count, sum }')
last=$(tail -n 1 numbers)
if [ "$(cat result)" = "$wanted" ] && [ "$(wc -l < numbers)" = "$last" ]; then
    echo OK
else
    echo "WRONG: $(cat result), not $wanted; $last numbers, $(wc -l < numbers) lines"
    exit 1
fi
