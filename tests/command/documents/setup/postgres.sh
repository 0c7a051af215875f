# The database that the page backs up.
createdb brainstem
psql -q -d brainstem -c "CREATE TABLE users (id int PRIMARY KEY, name text);
    INSERT INTO users VALUES (1, 'ada'), (2, 'grace');
    CREATE TABLE session_1 (token text);
    INSERT INTO session_1 VALUES ('secret');"
export ICECORE_REPOSITORY="$PWD/store" ICECORE_PASSWORD=correct-horse-battery
icecore init > /dev/null
