//! The program as its users meet it: exit codes, JSON, what is printed where, signals, pipes.

mod check;
mod codes;
mod examples;
mod files;
mod forget;
mod good;
mod healthy;
mod json;
mod log;
mod manual;
mod mislead;
mod once;
mod page;
mod parity;
mod partial;
mod passphrase;
mod pipes;
mod places;
mod races;
mod recipes;
mod repair;
mod reports;
mod rescue;
mod salvage;
mod select;
mod signals;
mod stats;
mod status;
mod stopping;
mod trees;
mod versions;

use crate::locked;
use crate::place as support;
use crate::run;
use crate::wait;
use crate::xattrs;
