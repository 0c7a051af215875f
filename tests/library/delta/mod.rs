//! The delta engine on long and random histories, moved content and hostile packs; what it costs, counted in bytes, requests and levels, never in time.
//!
//! Every random choice comes from a seed that is printed; `SEED=n` repeats a run, `SEEDS=n` takes as many seeds from there on.

mod beside;
mod bounds;
mod children;
mod cost;
mod count;
mod craft;
mod decode;
mod growth;
mod hostile;
mod model;
mod moved;
mod prune;
mod random;
mod room;
mod scene;
mod spill;
mod versions;

use crate::chunks;
use crate::common;
use crate::crashdisk as simulated;
use crate::memory;
use crate::proof;
use crate::repo as support;
