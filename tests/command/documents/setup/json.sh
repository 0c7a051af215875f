export ICECORE_REPOSITORY="$PWD/store" ICECORE_PASSWORD=correct-horse-battery
icecore init > /dev/null
sqlite3 memory.db "CREATE TABLE item (id INTEGER PRIMARY KEY); INSERT INTO item VALUES (1)"
