//! The stored bytes: the page that specifies them, golden bytes, hostile bytes, and readers that are not icecore.

mod annotate;
mod canonical;
mod compat;
mod derive;
mod golden;
mod limits;
mod listings;
mod mutate;
mod page;
mod parity;
mod script;
mod second;
mod spec;
mod values;
mod vectors;

use crate::chunks;
use crate::common::rng;
use crate::repo as support;
