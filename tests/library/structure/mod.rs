//! The structure inspector against SQLite's own checks: no valid database is reported, damage is.

mod checks;
mod damage;
mod hostile;
mod lost;
mod speed;
mod support;
mod valid;
