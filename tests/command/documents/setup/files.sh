# A small application directory with a database, a configuration, a log and a cache; and a web site beside it.
mkdir -p /srv/app/conf/nginx /srv/app/logs /srv/app/cache /srv/www /etc/nginx
sqlite3 /srv/app/main.db "CREATE TABLE t (i); INSERT INTO t VALUES (1);"
echo 'worker_processes 1;' > /srv/app/conf/nginx/nginx.conf
echo started > /srv/app/logs/app.log
printf 'Signature: 8a477f597d28d172789f06886806bc55\n' > /srv/app/cache/CACHEDIR.TAG
echo thumbnail > /srv/app/cache/1.png
echo '<h1>hello</h1>' > /srv/www/index.html
export ICECORE_REPOSITORY="$PWD/store" ICECORE_PASSWORD=correct-horse-battery
icecore init > /dev/null
