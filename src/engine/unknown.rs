//! Stands in for the engine of every kind of source that a later version of icecore has stored.

use super::Comparison;
use crate::recorded::SourceKind;

/// Stands for every unknown kind. Its snapshots are listed, checked, restored and exported as streams of bytes.
pub(super) struct UnknownEngine;

impl super::Engine for UnknownEngine {
    fn kind(&self) -> SourceKind {
        SourceKind::UNKNOWN
    }

    fn comparison(&self) -> Comparison {
        Comparison::Programs
    }
}
