# A source with some snapshots of the past, and the newest one of now.
export ICECORE_REPOSITORY="$PWD/store" ICECORE_PASSWORD=correct-horse-battery
icecore init > /dev/null
sqlite3 memory.db "CREATE TABLE item (id INTEGER PRIMARY KEY, text)"
for time in 2025-01-31T03:00:00Z 2025-02-27T03:00:00Z 2025-02-28T03:00:00Z 2025-02-28T04:00:00Z 2025-02-28T05:00:00Z; do
    sqlite3 memory.db "INSERT INTO item (text) VALUES ('$time')"
    icecore -q backup sqlite memory.db --source app --time $time
done
icecore -q backup sqlite memory.db --source app
