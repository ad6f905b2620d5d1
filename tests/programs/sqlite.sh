#!/bin/bash
# sqlite3 in the middle of a transaction: rows written and not committed, a journal on disk, locks held.
data=/var/lib/object.db
coproc DB { sqlite3 -batch "$data" 2>&1; }
ask() { echo "$1" >&"${DB[1]}"; }
hear() { read -r -t 60 line <&"${DB[0]}"; }
ask "create table t (n integer primary key, h text);"
ask "begin immediate;"
ask "with recursive c(n) as (select 1 union all select n + 1 from c where n < 20000) insert into t select n, hex(n * n) from c;"
ask "select 'half', count(*) from t;"
hear || exit 2
[ "$line" = "half|20000" ] || { echo "SET-UP: $line"; exit 2; }
echo READY
while [ ! -e /tmp/go ]; do sleep 0.01; done
# Nobody else may write meanwhile: the lock has to be there still.
other=$(sqlite3 -batch "$data" "begin immediate;" 2>&1)
case $other in *locked*) ;; *) echo "WRONG: another writer got in: $other"; exit 1 ;; esac
ask "with recursive c(n) as (select 20001 union all select n + 1 from c where n < 30000) insert into t select n, hex(n * n) from c;"
ask "commit;"
ask "select count(*), sum(n), sum(h = hex(n * n)) from t;"
hear
[ "$line" = "30000|450015000|30000" ] || { echo "WRONG: $line"; exit 1; }
ask "pragma integrity_check;"
hear
[ "$line" = ok ] || { echo "WRONG: $line"; exit 1; }
ask ".quit"
wait "$DB_PID" 2>/dev/null
[ "$(sqlite3 -batch "$data" "select count(*) from t;")" = 30000 ] && echo OK
