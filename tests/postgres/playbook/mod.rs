//! The playbook's commands, word for word, and what becomes of each when something is wrong: a clear message, a code that is not zero,
//! nothing lost, no half-written directory.

mod drill;
mod postgres;
mod signals;
mod site;
mod sqlite;
mod swap;

use crate::repo as support;
use crate::run;
use crate::script;
use crate::server;
use crate::wait;
