//! Others who may write where icecore works: nothing of anybody else is touched, and nothing of anybody else is taken.

mod attacker;
mod cut;
mod exports;
mod files;
mod restore;

use crate::repo as support;
