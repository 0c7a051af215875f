//! What goes wrong leaves no snapshot that counts.
