//! Makes a source of each database of a server.
//!
//! All of them use the options of the server; only the database in the connection settings differs.

use super::{PostgresOptions, PostgresSource};
use crate::engine::{Databases, Server, Source};
use crate::error::Result;
use crate::recorded::SourceKind;

/// A server, with the options for the capture of each database. The list of databases comes over a connection to the
/// database in the options.
pub struct PostgresServer(pub PostgresOptions);

impl PostgresServer {
    fn options_of(&self, database: &str) -> PostgresOptions {
        PostgresOptions { conninfo: self.0.conninfo.with_database(database), ..self.0.clone() }
    }
}

impl Server for PostgresServer {
    fn kind(&self) -> SourceKind {
        SourceKind::POSTGRES
    }

    fn label(&self) -> String {
        self.0.conninfo.label()
    }

    fn databases(&self) -> Result<Databases> {
        PostgresSource::connect(self.0.clone())?.databases()
    }

    fn label_of(&self, database: &str) -> String {
        self.options_of(database).conninfo.label()
    }

    fn source(&self, database: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(PostgresSource::connect(self.options_of(database))?))
    }
}
