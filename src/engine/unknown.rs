//! Snapshots of a kind of source that this program has no engine for.

use super::Comparison;
use crate::recorded::SourceKind;

/// Stands for every kind that is not known: its snapshots are listed, checked, restored and exported as streams of bytes.
pub(super) struct UnknownEngine;

impl super::Engine for UnknownEngine {
    fn kind(&self) -> SourceKind {
        SourceKind::UNKNOWN
    }

    fn comparison(&self) -> Comparison {
        Comparison::Programs
    }
}
