//! Puts a verified file in the place of a database.
