# Brainstem's two stores.
mkdir .data
sqlite3 .data/brainstem.db "PRAGMA journal_mode = WAL;
    CREATE TABLE memory(id INTEGER PRIMARY KEY, body TEXT); INSERT INTO memory(body) VALUES ('glacier'), ('harbour');" > /dev/null
sqlite3 .data/model_registry.db "CREATE TABLE history(model TEXT, version INTEGER); INSERT INTO history VALUES ('rank', 1);"
