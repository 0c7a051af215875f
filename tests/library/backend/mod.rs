//! The contract of every backend, and what the local one keeps over crashes and failures.

mod contract;
mod crash;
mod crashdisk;
mod local;

use crate::crashdisk as simulated;
