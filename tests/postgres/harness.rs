//! The test servers are of the versions that the tests expect.

use crate::server::on_every_version;

#[test]
fn each_version_runs() {
    on_every_version(|server| {
        let database = server.database();
        assert_eq!(database.sql("SELECT current_setting('server_version_num')::int / 10000"), server.version.to_string());
        assert!(database.pg_dump(&[]).starts_with(b"PGDMP"));
    });
}
