# What `cargo install` leaves, and the directories that every machine with cron and systemd has.
mkdir -p ~/.cargo/bin /usr/local/bin /etc/cron.d /etc/systemd/system
ln -s "$(command -v icecore)" ~/.cargo/bin/icecore
