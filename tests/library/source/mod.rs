//! Sources: what is captured is what was there, and nothing is disturbed.

mod sqlite_big;
mod sqlite_damage;
mod sqlite_image;
mod sqlite_instant;
mod sqlite_place;
mod sqlite_unchanged;
mod sqlite_writers;
mod support;

use crate::wait;
