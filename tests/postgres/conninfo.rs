//! Connection settings mean what they mean to libpq: each is given to psql too.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use icecore::engine::Environment;
use icecore::engine::postgres::{Connection, Conninfo};

use crate::server::{Server, must, server};

/// Host, port, user and database that psql reaches with these settings.
fn by_psql(server: &Server, dsn: &str, variables: &BTreeMap<String, String>) -> Option<[String; 4]> {
    let mut psql = Command::new(server.bin.join("psql"));
    psql.env_clear().envs(variables).args(["-XqAtw", "-d", dsn, "-c", "\\echo :HOST", "-c", "\\echo :PORT"]);
    psql.args(["-c", "SELECT current_user", "-c", "SELECT current_database()"]).stdin(Stdio::null());
    let output = psql.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    output.status.success().then(|| lines.try_into().unwrap())
}

fn environment(variables: &BTreeMap<String, String>) -> Environment {
    let os_user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    Environment { variables: variables.iter().map(|(k, v)| (k.into(), v.into())).collect(), os_user: Some(os_user.trim().to_owned()) }
}

/// The same for our own connection.
fn by_icecore(dsn: &str, variables: &BTreeMap<String, String>) -> Option<[String; 4]> {
    let conninfo = Conninfo::resolve(Some(dsn), &environment(variables)).ok()?;
    let mut connection = Connection::open(&conninfo).ok()?;
    let row = connection.client.query_one("SELECT current_user::text, current_database()::text", &[]).unwrap();
    let target = &connection.conninfo.targets[0];
    Some([target.host.clone(), target.port.to_string(), row.get(0), row.get(1)])
}

#[test]
fn both_get_to_the_same_place() {
    let server = server(16);
    let (host, port) = (server.dir.to_str().unwrap(), server.port);
    let encoded = host.replace('/', "%2F");
    server.sql("postgres", "CREATE ROLE \"o'dd user\" LOGIN");
    server.sql("postgres", "CREATE DATABASE \"odd = db\"");
    let home = tempfile::tempdir().unwrap();
    let service =
        format!("# comment\n[other]\nhost=nowhere\n[main]\nhost={host}\nport={port}\nuser=postgres\n\ndbname=template1\n[last]\nport=1\n");
    std::fs::write(home.path().join(".pg_service.conf"), service).unwrap();
    let base = BTreeMap::from([
        ("HOME".to_owned(), home.path().to_str().unwrap().to_owned()),
        ("PGHOST".to_owned(), host.to_owned()),
        ("PGPORT".to_owned(), port.to_string()),
        ("PGUSER".to_owned(), "postgres".to_owned()),
    ]);
    let with = |name: &str, value: &str| base.iter().map(|(k, v)| (k.clone(), v.clone())).chain([(name.into(), value.into())]).collect();
    let none: BTreeMap<String, String> = base.iter().filter(|(name, _)| *name == "HOME").map(|(k, v)| (k.clone(), v.clone())).collect();
    let cases: Vec<(String, BTreeMap<String, String>)> = vec![
        ("".into(), base.clone()),
        ("template1".into(), base.clone()),
        ("postgres:///template1".into(), base.clone()),
        (format!("postgresql://postgres@{encoded}:{port}/template1"), none.clone()),
        (format!("postgres://postgres@nowhere:1/postgres?host={encoded}&port={port}"), none.clone()),
        (format!("postgres://postgres:a%40b%2F?@{encoded}:{port}/odd%20%3D%20db"), none.clone()),
        (format!("postgres://o%27dd%20user@/template1?host={host}&port={port}"), none.clone()),
        (format!("host={host} port={port} user='o\\'dd user' dbname='odd = db'"), none.clone()),
        (format!("host = {host}  port= {port} user =postgres dbname\n=\ntemplate1"), none.clone()),
        (format!("host=/nowhere,{host} port=1,{port} user=postgres dbname=template1"), none.clone()),
        (format!("postgres://postgres@%2Fnowhere:1,{encoded}:{port}/template1"), none.clone()),
        ("service=main".into(), none.clone()),
        ("service=main dbname=postgres".into(), with("PGDATABASE", "odd = db")),
        ("postgres://?service=main".into(), with("PGHOST", "nowhere")),
        ("".into(), with("PGSERVICE", "main")),
        ("".into(), with("PGDATABASE", "odd = db")),
        ("dbname=''".into(), with("PGDATABASE", "template1")),
        ("target_session_attrs=read-write".into(), base.clone()),
        ("options='-c geqo=off' connect_timeout=5".into(), base.clone()),
        // Settings that both refuse.
        ("service=missing".into(), base.clone()),
        ("target_session_attrs=standby".into(), base.clone()),
        ("host=".into(), none.clone()),
        ("dbname='open".into(), base.clone()),
        ("dbname".into(), base.clone()),
        ("postgres://%zz@/template1".into(), base.clone()),
        ("postgres://u@h/d?nonsense=1".into(), base.clone()),
        ("postgres://[::1/d".into(), base.clone()),
        ("port=99999".into(), base.clone()),
        ("host=a,b port=1,2,3".into(), base.clone()),
        ("sslmode=sometimes".into(), base.clone()),
        ("sslmode=verify-full host=127.0.0.1".into(), base.clone()),
    ];
    let mut reached = 0;
    for (dsn, variables) in &cases {
        let expected = by_psql(server, dsn, variables);
        assert_eq!(by_icecore(dsn, variables), expected, "{dsn} {variables:?}");
        reached += usize::from(expected.is_some());
    }
    assert_eq!(reached, 19, "the cases are what they are thought to be");
}

#[test]
fn what_our_connection_cannot_honour_is_refused() {
    for dsn in
        ["requirepeer=postgres", "channel_binding=require", "gssencmode=require", "sslcrl=/x", "require_auth=none", "sslnegotiation=direct"]
    {
        let error = Conninfo::resolve(Some(&format!("user=u {dsn}")), &Environment::default()).unwrap_err().to_string();
        assert!(error.contains("cannot honour"), "{dsn}: {error}");
    }
}

fn password_server() -> &'static Server {
    let server = Box::leak(Box::new(Server::start_with(15, "127.0.0.1", |data| {
        let openssl = Command::new("openssl")
            .args(["req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-newkey", "rsa:2048"])
            .args(["-out", "server.crt", "-keyout", "server.key"])
            .current_dir(data)
            .output()
            .unwrap();
        must(openssl, "openssl");
        let key = data.join("server.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::copy(data.join("server.crt"), data.parent().unwrap().join("server.crt")).unwrap();
        for name in ["server.key", "server.crt"] {
            if rustix::process::getuid().is_root() {
                must(Command::new("chown").arg("postgres:postgres").arg(data.join(name)).output().unwrap(), "chown");
            }
        }
        let hba = "local all postgres trust\nlocal all all scram-sha-256\nhostssl tls all all trust\nhostnossl plain all all trust\n\
                   host secret all all scram-sha-256\n";
        std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
        std::fs::write(data.join("postgresql.auto.conf"), "ssl = on\n").unwrap();
    })));
    for database in ["tls", "plain", "secret"] {
        server.sql("postgres", &format!("CREATE DATABASE {database}"));
    }
    server.sql("postgres", "CREATE ROLE keeper LOGIN PASSWORD 'a:b\\c' SUPERUSER");
    server
}

/// Whether psql and our own connection get in, and whether by TLS. Both must agree.
fn tls(server: &Server, dsn: &str, home: &Path) -> Option<bool> {
    let variables = BTreeMap::from([
        ("HOME".to_owned(), home.to_str().unwrap().to_owned()),
        ("PGPORT".to_owned(), server.port.to_string()),
        ("PGUSER".to_owned(), "keeper".to_owned()),
    ]);
    let used = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let mut psql = Command::new(server.bin.join("psql"));
    psql.env_clear().envs(&variables).args(["-XqAtw", "-d", dsn, "-c", used]).stdin(Stdio::null());
    let output = psql.output().unwrap();
    let expected = output.status.success().then(|| output.stdout == b"t\n");
    let connection = Conninfo::resolve(Some(dsn), &environment(&variables)).ok().and_then(|conninfo| Connection::open(&conninfo).ok());
    let got = connection.map(|mut connection| connection.client.query_one(used, &[]).unwrap().get::<_, bool>(0));
    assert_eq!(got, expected, "{dsn}: {}", String::from_utf8_lossy(&output.stderr));
    got
}

#[test]
fn tls_and_passwords() {
    let server = password_server();
    let home = tempfile::tempdir().unwrap();
    let root = server.dir.join("server.crt");
    let root = format!("sslrootcert={}", root.display());
    let tls = |dsn: &str| tls(server, dsn, home.path());
    for (mode, to_tls, to_plain) in [
        ("disable", None, Some(false)),
        ("allow", Some(true), Some(false)),
        ("prefer", Some(true), Some(false)),
        ("require", Some(true), None),
    ] {
        assert_eq!(tls(&format!("host=127.0.0.1 dbname=tls sslmode={mode}")), to_tls, "{mode}");
        assert_eq!(tls(&format!("host=127.0.0.1 dbname=plain sslmode={mode}")), to_plain, "{mode}");
    }
    assert_eq!(tls("host=127.0.0.1 dbname=tls sslmode=verify-ca"), None, "no root certificates");
    assert_eq!(tls(&format!("host=127.0.0.1 dbname=tls sslmode=verify-ca {root}")), Some(true));
    assert_eq!(tls(&format!("host=127.0.0.1 dbname=tls sslmode=verify-full {root}")), None, "another name");
    assert_eq!(tls(&format!("host=localhost hostaddr=127.0.0.1 dbname=tls sslmode=verify-full {root}")), Some(true));

    let dsn = "host=127.0.0.1 dbname=secret";
    assert_eq!(tls(dsn), None, "no password");
    assert_eq!(tls(&format!("{dsn} password='a:b\\\\c'")), Some(true));
    let file = home.path().join(".pgpass");
    let lines = "# comment\n127.0.0.1:1:*:*:wrong\n*:*:secret:keeper:a\\:b\\\\c\n*:*:*:*:wrong\n";
    std::fs::write(&file, lines).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(tls(dsn), None, "others can read it");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(tls(dsn), Some(true));
    assert_eq!(tls(&format!("host={} dbname=secret", server.dir.display())), Some(false), "a socket has no TLS");
    assert_eq!(tls(&format!("{dsn} passfile=/none")), None);
}
