# A repository with one source, and a function that flips bytes in a stored pack as a bad disk does.
export ICECORE_REPOSITORY="$PWD/store" ICECORE_PASSWORD=correct-horse-battery
icecore init > /dev/null
mkdir -p /var/lib/app
sqlite3 /var/lib/app/memory.db "CREATE TABLE memory (id INTEGER PRIMARY KEY, text);
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
    INSERT INTO memory SELECT i, hex(randomblob(40)) FROM n"
icecore -q backup sqlite /var/lib/app/memory.db --source app
flip_bytes() {
    pack=$(find store/packs -type f -size +20k | head -n 1)
    chmod u+w "$pack"
    printf '\0\1\2' | dd of="$pack" bs=1 seek=5000 conv=notrunc status=none
}
