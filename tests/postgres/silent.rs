//! Servers that accept and say nothing, or never stop talking.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::restore::{self, plain};
use crate::server::{Server, server};
use crate::support::{Place, Run};
use crate::wait::until;
use crate::{capture, restore_failures};

/// A server that does this after the client's first message, and the number of clients so far.
fn serve(answer: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, heard) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let (answer, counter) = (Arc::new(answer), Arc::clone(&heard));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer, counter) = (stream.unwrap(), Arc::clone(&answer), Arc::clone(&counter));
            std::thread::spawn(move || {
                let mut len = [0; 4];
                stream.read_exact(&mut len).unwrap();
                let mut hello = vec![0; u32::from_be_bytes(len) as usize - 4];
                stream.read_exact(&mut hello).unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                // Waits until the client has gone.
                let _ = answer(&mut stream).and_then(|()| stream.read_to_end(&mut Vec::new()));
            });
        }
    });
    (port, heard)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn notice() -> Vec<u8> {
    message(b'N', b"SNOTICE\0C00000\0Mtalk\0\0")
}

/// The password was right.
fn welcome() -> Vec<u8> {
    message(b'R', &[0; 4])
}

/// The session has begun.
fn greeting() -> Vec<u8> {
    [welcome(), message(b'Z', b"I")].concat()
}

fn endless(stream: &mut TcpStream) -> std::io::Result<()> {
    let block = notice().repeat(1000);
    loop {
        stream.write_all(&block)?;
    }
}

fn dsn(port: u16, seconds: u32) -> String {
    format!("postgresql://somebody@127.0.0.1:{port}/thing?sslmode=disable&connect_timeout={seconds}")
}

#[test]
fn what_never_comes_to_an_end_fails() {
    let trickle = |stream: &mut TcpStream| {
        stream.write_all(&welcome())?;
        loop {
            stream.write_all(&notice())?;
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let talking = |stream: &mut TcpStream| stream.write_all(&welcome()).and_then(|()| endless(stream));
    let huge = |stream: &mut TcpStream| stream.write_all(&[&b"N"[..], &0x7fff_0000_u32.to_be_bytes(), &[b'x'; 4 << 20]].concat());
    let greeted = |stream: &mut TcpStream| stream.write_all(&greeting()).and_then(|()| endless(stream));
    for (port, seconds, with) in [
        (serve(|_| Ok(())).0, 2, "not done after 2 s"),
        (serve(trickle).0, 2, "not done after 2 s"),
        (serve(|stream| stream.write_all(&greeting())).0, 2, "not done after 2 s"),
        (serve(talking).0, 600, "has sent more than 1048576 bytes"),
        (serve(huge).0, 600, "has sent more than 1048576 bytes"),
        (serve(greeted).0, 600, "more than 100000 notices"),
    ] {
        let place = plain();
        let run: Run = capture::command(&place, server(16), &dsn(port, seconds), &["--no-role-passwords"]).output().unwrap().into();
        run.failed(1, &["cannot connect", with]);
        assert!(place.snapshots().is_empty());
    }
}

/// A stop takes effect while a server is silent: its first word would come in an hour.
#[test]
fn a_stop_is_felt_while_connecting() {
    let (place, database) = restore_failures::filled(server(16));
    let silent = |_: &mut TcpStream| Ok(());
    let greeted = |stream: &mut TcpStream| stream.write_all(&greeting());
    let commands = |place: &Place, server: &Server, dsn: &str| {
        let backup = capture::command(place, server, dsn, &["--no-role-passwords"]);
        [backup, restore::command(place, server, &["latest", "--dsn", dsn, "--as", "thing"])]
    };
    for (port, heard) in [serve(silent), serve(greeted)] {
        for (number, mut command) in commands(&place, database.server, &dsn(port, 3600)).into_iter().enumerate() {
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            until("it has said hello", || heard.load(Ordering::SeqCst) > number);
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            until("it has ended", || child.try_wait().unwrap().is_some());
            let run: Run = child.wait_with_output().unwrap().into();
            run.failed(130, &["interrupted"]);
        }
    }
}

/// The process has keys in its memory, so no crash may write a core file.
#[test]
fn no_file_is_left_of_its_memory() {
    let (place, (port, heard)) = (plain(), serve(|_| Ok(())));
    let inner = capture::command(&place, server(16), &dsn(port, 3600), &["--no-role-passwords"]);
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "ulimit -c unlimited || ulimit -c $(ulimit -H -c); exec \"$@\"", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    inner.get_envs().for_each(|(name, value)| match value {
        Some(value) => drop(command.env(name, value)),
        None => drop(command.env_remove(name)),
    });
    command.current_dir(inner.get_current_dir().unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    until("it has said hello", || heard.load(Ordering::SeqCst) > 0);
    kill_process(Pid::from_child(&child), Signal::ABORT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(Signal::ABORT.as_raw()), false));
}
