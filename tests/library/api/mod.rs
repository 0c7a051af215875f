//! The library on real files: backup, restore, check, commit protocol.

mod ages;
mod check;
mod cost;
mod damage;
mod faults;
mod forget;
mod history;
mod journal;
mod large_listing;
mod lost_listing;
mod marks;
mod nowhere;
mod parity;
mod progress;
mod prune;
mod retention;
mod salvage;
mod scrub;
mod sources;
mod stats;
mod wrong_trees;

use crate::chunks;
use crate::proof;
use crate::repo as support;
