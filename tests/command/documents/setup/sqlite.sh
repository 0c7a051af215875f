# Two small databases in WAL mode and one in rollback-journal mode, as an application leaves them.
for name in memory registry; do
    sqlite3 $name.db "PRAGMA journal_mode = WAL;
        CREATE TABLE item (id INTEGER PRIMARY KEY, text);
        INSERT INTO item (text) VALUES ('one'), ('two');" > /dev/null
done
sqlite3 queue.db "CREATE TABLE job (id INTEGER PRIMARY KEY, what); INSERT INTO job (what) VALUES ('mail');"
export ICECORE_REPOSITORY="$PWD/store" ICECORE_PASSWORD=correct-horse-battery
icecore init > /dev/null
