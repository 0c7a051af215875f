//! Putting restored bytes in place: promise 6, rule by rule.

mod attributes;
mod busy;
mod child;
mod closed;
mod crash;
mod live;
mod plain;
mod support;
mod tree;

use crate::crashdisk;
use crate::xattrs;
