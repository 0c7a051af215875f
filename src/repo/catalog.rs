//! The local, disposable index over all packs and snapshots.
