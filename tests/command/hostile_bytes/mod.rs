//! Bytes that others wrote: the host that keeps the repository, somebody who may write the cache, owners of databases. `docs/security.md` says what is
//! promised against whom, and names these tests.

mod cached;
mod counts;
mod databases;
mod exchanged;
mod hidden;
mod misplaced;
mod mutated;
mod names;
mod no_files;
mod unseen;

use crate::place as support;
use crate::proof;
use crate::repo as bed;
use crate::rng;
use crate::run;
