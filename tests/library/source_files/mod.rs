//! Directory trees through the whole library: backup, restore, and what must not go wrong on the way.

mod attributes;

mod changes;
mod databases;
mod good;
mod harness;
mod many;
mod names;
mod selection;
mod sparse;
mod stopping;
mod trees;
mod unreadable;

use crate::crashdisk;
use crate::locked;
use crate::repo as support;
use crate::xattrs;
