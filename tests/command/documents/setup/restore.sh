# Three sources with snapshots: two SQLite databases, a directory, and a PostgreSQL database. Then some of it gets lost.
export ICECORE_REPOSITORY="$PWD/store" ICECORE_PASSWORD=correct-horse-battery
icecore init > /dev/null
mkdir -p /srv/app/conf/nginx /etc/nginx /var/lib/app
for name in memory registry; do
    sqlite3 /var/lib/app/$name.db "PRAGMA journal_mode = WAL;
        CREATE TABLE item (id INTEGER PRIMARY KEY, text);
        INSERT INTO item (text) VALUES ('one'), ('two');" > /dev/null
done
icecore -q backup sqlite /var/lib/app/memory.db /var/lib/app/registry.db --source app --time 2025-11-02T03:00:00Z
sqlite3 /var/lib/app/memory.db "INSERT INTO item (text) VALUES ('three')"
icecore -q backup sqlite /var/lib/app/memory.db /var/lib/app/registry.db --source app
sqlite3 /var/lib/app/memory.db "DELETE FROM item"
echo 'worker_processes 1;' > /srv/app/conf/nginx/nginx.conf
icecore -q backup files conf=/srv/app/conf --source config
createdb brainstem
psql -q -d brainstem -c "CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'ada'), (2, 'grace')"
icecore -q backup postgres --dsn postgresql://admin@db.example.org/brainstem --source brainstem
psql -q -d brainstem -c "DELETE FROM users WHERE id = 1"
