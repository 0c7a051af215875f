//! Finds damage in the pages of a database as they pass by.
