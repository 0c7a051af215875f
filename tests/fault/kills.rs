//! The real program, killed (SIGKILL) at random moments: backups, forgets and prunes, alone and two at once. `ICECORE_PROOF=long` makes ten times as many rounds.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use icecore::id::SnapshotId;
use icecore::store::repo::Repository;

use crate::proof::{self, KILLS};
use crate::support::{open_backend, record_key};
use crate::world::{Random, World, check_clean, local, seed, states, verify};

/// Rounds of a short run; most of them kill.
const ROUNDS: usize = 300;
const SOURCES: [&str; 2] = ["a", "b"];
/// What a command that nothing disturbs may take.
const TIME_MAX: Duration = Duration::from_secs(120);

/// What the program is asked to do.
#[derive(Debug, Clone)]
enum Order {
    Backup {
        source: usize,
        state: usize,
    },
    Forget(SnapshotId),
    /// With this grace time. None is for a repository in which nothing else runs.
    Prune(&'static str),
}

struct Field {
    world: World,
    random: Random,
    /// How long each kind takes when it is not killed.
    times: BTreeMap<&'static str, Duration>,
    killed: usize,
    finished: usize,
}

impl Order {
    fn kind(&self) -> &'static str {
        match self {
            Order::Backup { .. } => "backup",
            Order::Forget(_) => "forget",
            Order::Prune(_) => "prune",
        }
    }
}

impl Field {
    fn new() -> Self {
        Field { world: World::new(false), random: Random(seed()), times: BTreeMap::new(), killed: 0, finished: 0 }
    }

    fn start(&self, order: &Order, host: usize) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        for name in ["REPOSITORY", "PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND"] {
            command.env_remove(format!("ICECORE_{name}"));
        }
        command.env("ICECORE_CACHE_DIR", self.world.path(&format!("cache {host}"))).env("HOME", self.world.path(""));
        command.arg("--json").arg("-R").arg(self.world.repo_dir());
        match order {
            Order::Backup { source, state } => {
                let name = SOURCES[*source];
                let path = self.world.path(&format!("{name}.db"));
                fs::write(&path, &states()[*state]).unwrap();
                let stream = format!("db={}", path.display());
                command.args(["backup", "sqlite", "--source", name, &stream]);
            }
            Order::Forget(id) => drop(command.args(["forget", &id.to_string()])),
            Order::Prune(grace) => drop(command.args(["prune", "--grace", grace, "--max-unused", "0"])),
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn order(&mut self, source: usize, alone: bool) -> Order {
        let ids: Vec<SnapshotId> = self.world.known.keys().copied().collect();
        match self.random.below(6) {
            0 if ids.len() > 4 => Order::Forget(ids[self.random.below(ids.len())]),
            1 | 2 => Order::Prune(if alone { "0" } else { "3s" }),
            _ => Order::Backup { source, state: self.random.below(states().len()) },
        }
    }

    /// What an order that was not killed says.
    fn end(&mut self, order: &Order, child: Child, started: Instant, alone: bool) {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{said}");
        if output.status.code().is_none() {
            self.killed += 1;
            return;
        }
        self.finished += 1;
        assert!(started.elapsed() < TIME_MAX);
        // The newest good one of a source is not forgotten; a prune that meets a dead writer's record may be too early.
        let may_refuse = matches!(order, Order::Forget(_)) || matches!(order, Order::Prune(_)) && !alone;
        assert!(output.status.success() || may_refuse, "{order:?}: {:?} {said}", output.status);
        if let (Order::Backup { state, .. }, true) = (order, output.status.success()) {
            let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let id: SnapshotId = document["snapshot"].as_str().unwrap_or_else(|| panic!("{document}")).parse().unwrap();
            self.world.known.insert(id, states()[*state].clone());
        }
    }

    /// One or two at once, killed at once or one after the other; then everything that was there is there.
    fn round(&mut self, number: usize) {
        let alone = self.random.below(2) == 0;
        let orders: Vec<Order> = (0..if alone { 1 } else { 2 }).map(|source| self.order(source, alone)).collect();
        let started = Instant::now();
        let mut children: Vec<Child> = orders.iter().enumerate().map(|(host, order)| self.start(order, host)).collect();
        for (order, child) in orders.iter().zip(&mut children) {
            let usual = self.times[order.kind()].as_micros() as usize;
            let moment = Duration::from_micros(self.random.below(usual * 11 / 10) as u64);
            std::thread::sleep(moment.saturating_sub(started.elapsed()));
            // One in eight may end.
            if self.random.below(8) != 0 {
                let _ = child.kill();
            }
        }
        for (order, child) in orders.iter().zip(children) {
            self.end(order, child, started, alone);
        }
        for order in &orders {
            if let Order::Forget(id) = order
                && record_key(&*self.world.local(), id).is_none()
            {
                self.world.known.remove(id);
            }
        }
        self.verify(number.is_multiple_of(6));
    }

    fn repository(&self) -> Repository {
        open_backend(local(&self.world.repo_dir()), self.world.path("cache of the test"), 2).unwrap()
    }

    fn verify(&mut self, read: bool) {
        let repo = self.repository();
        let all: Vec<&[u8]> = states().iter().map(Vec::as_slice).collect();
        // What was committed just before the kill was not said.
        self.world.known = verify(&repo, &self.world.known, &all);
        if read {
            check_clean(&repo);
        }
    }

    /// Runs each kind to its end, to know how long it takes.
    fn rehearse(&mut self) {
        for source in [0, 1, 0, 1, 0, 1] {
            self.undisturbed(Order::Backup { source, state: source });
        }
        let oldest = *self.world.known.keys().next().unwrap();
        self.undisturbed(Order::Forget(oldest));
        let is_there = record_key(&*self.world.local(), &oldest).is_some();
        self.world.known.retain(|id, _| is_there || *id != oldest);
        self.undisturbed(Order::Prune("0"));
    }

    fn undisturbed(&mut self, order: Order) {
        let started = Instant::now();
        let child = self.start(&order, 0);
        self.end(&order, child, started, true);
        self.times.insert(order.kind(), started.elapsed());
    }
}

#[test]
fn the_program_is_killed() {
    let rounds = if proof::is_long() { ROUNDS * 10 } else { ROUNDS };
    let mut field = Field::new();
    field.rehearse();
    (0..rounds).for_each(|number| field.round(number));
    field.undisturbed(Order::Prune("0"));
    field.undisturbed(Order::Backup { source: 0, state: 3 });
    field.verify(true);
    println!("{} killed, {} ended by themselves, {} snapshots in the end", field.killed, field.finished, field.world.known.len());
    proof::count("the program", &[(KILLS, field.killed)]);
    assert!(field.killed * 2 > rounds);
}
