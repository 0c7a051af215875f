# A repository with one source.
export ICECORE_REPOSITORY="$PWD/store" ICECORE_PASSWORD=correct-horse-battery
icecore init > /dev/null
mkdir -p /var/lib/node_exporter
sqlite3 memory.db "CREATE TABLE item (id INTEGER PRIMARY KEY); INSERT INTO item VALUES (1)"
icecore -q backup sqlite memory.db --source app
