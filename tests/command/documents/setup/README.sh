# What `cargo install` leaves: the program in cargo's directory. The directory that it is copied to is there, too.
mkdir -p ~/.cargo/bin /usr/local/bin
ln -s "$(command -v icecore)" ~/.cargo/bin/icecore
