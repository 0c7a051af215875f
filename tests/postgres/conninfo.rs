//! Connection strings mean what they mean to libpq.
