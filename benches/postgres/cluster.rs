//! pgBackRest of the whole cluster, on a server of its own that archives every piece of its WAL into two repositories: one with what is its default, one
//! in which files that changed are kept by their blocks, which version 2.45 calls a beta feature.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bank::Bank;
use crate::common::Result;
use crate::common::process::{Cost, measure};
use crate::common::report::{median, ms};
use crate::common::tool::{find, tree_bytes};
use crate::programs::PASSPHRASE;
use crate::server::{Server, run};

/// What pgBackRest calls a cluster.
const STANZA: &str = "bank";
/// Its repositories, numbered from 1.
const REPOSITORIES: [&str; 2] = ["increments of files", "increments of blocks (beta)"];
/// What the database says of itself: the same before and after.
const SUMS: &str = "SELECT (SELECT (count(*), sum(abalance), sum(hashtext(filler))) FROM pgbench_accounts), \
                    (SELECT (count(*), sum(hashtext(title || body)::bigint)) FROM notes), (SELECT count(*) FROM pgbench_history)";

/// What a backup cost, and what the repository holds after it.
struct Kept {
    cost: Cost,
    backup_bytes: u64,
    wal_bytes: u64,
}

/// What getting the newest backup back cost.
struct Restored {
    /// Of `pgbackrest restore`.
    files: Cost,
    /// From the end of that until the server has replayed its WAL and answers.
    replay: Duration,
}

/// Takes the same history as the other lanes through pgBackRest and prints what it cost. `settings` are more options of the server.
///
/// # Errors
/// What the programs say, or when another database comes back.
pub fn lane(peers: Option<&Path>, bin: Option<PathBuf>, settings: &str, (scale, steps): (u32, u32)) -> Result<()> {
    let Some(program) = find("pgbackrest", peers) else {
        println!("pgbackrest: left out, there is no such program");
        return Ok(());
    };
    let mut lane = Lane::start(program, bin, settings, scale)?;
    let mut backups = [Vec::new(), Vec::new()];
    for n in 0..=steps {
        eprintln!("pgbackrest, version {n} of {steps}");
        if n > 0 {
            lane.bank.step(n)?;
        }
        // It waits until all WAL so far is archived: that of the traffic is no work of a backup's.
        run(lane.command().arg("check"), "")?;
        for turn in 0..backups.len() {
            let which = (turn + n as usize) % backups.len();
            backups[which].push(lane.backup(which + 1, if n == 0 { "full" } else { "incr" })?);
        }
    }
    let cluster = tree_bytes(&lane.bank.server().dir().join("data/base"))?;
    println!(
        "\n{} of the whole cluster, {:.1} MB of databases; the CPU time of the server's archive commands is not seen",
        lane.version()?,
        cluster as f64 / 1e6
    );
    let before = lane.bank.server().ask(SUMS)?;
    for (which, backups) in backups.iter().enumerate() {
        print(REPOSITORIES[which], backups, &lane.restore(which + 1, &before)?);
    }
    Ok(())
}

struct Lane {
    bank: Bank,
    program: PathBuf,
}

impl Lane {
    /// A server that archives from its first moment on, so the repository is made before the database is.
    fn start(program: PathBuf, bin: Option<PathBuf>, settings: &str, scale: u32) -> Result<Self> {
        let server = Server::make(bin)?;
        let dir = server.dir();
        std::fs::write(dir.join("pgbackrest.conf"), config(dir))?;
        let archive = format!("{} --config={}/pgbackrest.conf --stanza={STANZA} archive-push %p", program.display(), dir.display());
        // Without full pages no server that is worth a backup runs; the others read no WAL.
        server.boot(&format!("-c full_page_writes=on -c archive_mode=on -c archive_command='{archive}' {settings}"))?;
        run(pgbackrest(&server, &program).arg("stanza-create"), "")?;
        Ok(Lane { bank: Bank::on(server, scale)?, program })
    }

    fn command(&self) -> Command {
        pgbackrest(self.bank.server(), &self.program)
    }

    fn version(&self) -> Result<String> {
        let output = Command::new(&self.program).arg("version").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn backup(&self, repository: usize, kind: &str) -> Result<Kept> {
        let dir = self.bank.server().dir();
        let mut command = self.command();
        command.arg("backup").arg(format!("--repo={repository}")).arg(format!("--type={kind}"));
        let (cost, _) = measure(&mut command, &dir.join("stderr"))?;
        let bytes = |part: &str| tree_bytes(&dir.join(format!("repository-{repository}")).join(part));
        Ok(Kept { cost, backup_bytes: bytes("backup")?, wal_bytes: bytes("archive")? })
    }

    /// The newest backup into another directory, and a server on that until it answers with what was there.
    fn restore(&mut self, repository: usize, before: &str) -> Result<Restored> {
        self.bank.server().stop("fast")?;
        let dir = self.bank.server().dir();
        let (restored, log) = (dir.join(format!("restored-{repository}")), dir.join("stderr"));
        let mut command = self.command();
        command.args(["restore", "--type=immediate", "--target-action=promote"]).arg(format!("--repo={repository}"));
        let (files, _) = measure(command.arg(format!("--pg1-path={}", restored.display())), &log)?;
        let began = Instant::now();
        self.bank.server_mut().move_to(restored);
        // It is a copy: it must not archive into the same repository.
        self.bank.server().boot("-c archive_mode=off")?;
        let replay = began.elapsed();
        let after = self.bank.server().ask(SUMS)?;
        if after != before {
            return Err(format!("pgbackrest: the database came back as {after}, and was {before}").into());
        }
        Ok(Restored { files, replay })
    }
}

fn pgbackrest(server: &Server, program: &Path) -> Command {
    let mut command = server.owned(program);
    command.arg(format!("--config={}/pgbackrest.conf", server.dir().display())).arg(format!("--stanza={STANZA}"));
    command
}

/// As many processes as there are cores, encrypted as the others, small files together, a checkpoint at once.
fn config(dir: &Path) -> String {
    let processes = std::thread::available_parallelism().map_or(1, usize::from);
    let dir = dir.display();
    let repository = |number: usize| {
        format!(
            "repo{number}-path={dir}/repository-{number}\nrepo{number}-cipher-type=aes-256-cbc\nrepo{number}-cipher-pass={PASSPHRASE}\n\
             repo{number}-retention-full=1\nrepo{number}-bundle=y\n"
        )
    };
    format!(
        "[global]\n{}{}beta=y\nrepo2-block=y\ncompress-type=zst\nprocess-max={processes}\nstart-fast=y\narchive-timeout=600\n\
         lock-path={dir}/lock\nlog-level-file=off\nlog-level-console=warn\n\n\
         [{STANZA}]\npg1-path={dir}/data\npg1-socket-path={dir}\npg1-user=postgres\n",
        repository(1),
        repository(2)
    )
}

fn print(name: &str, backups: &[Kept], restored: &Restored) {
    let Some(((first, next), last)) = backups.split_first().zip(backups.last()) else { return };
    println!("\npgbackrest, {name}: bytes of its repository after each backup, and what that took");
    println!("{:>4} {:>12} {:>12} {:>15}", "", "backups", "WAL", "wall / CPU ms");
    for (n, kept) in backups.iter().enumerate() {
        let took = format!("{:.0} / {:.0}", ms(kept.cost.wall), ms(kept.cost.cpu));
        println!("{n:>4} {:>12} {:>12} {took:>15}", kept.backup_bytes, kept.wal_bytes);
    }
    let middle = |value: &dyn Fn(&Cost) -> f64| median(&mut next.iter().map(|kept| value(&kept.cost)).collect::<Vec<_>>());
    let peak = backups.iter().map(|kept| kept.cost.peak_bytes).max().unwrap_or(0) >> 20;
    println!(
        "next pgbackrest: {:.0} ms wall, {:.0} CPU; peak of one process {peak} MiB",
        middle(&|cost| ms(cost.wall)),
        middle(&|cost| ms(cost.cpu))
    );
    let steps = next.len().max(1) as u64;
    let added = |value: fn(&Kept) -> u64| value(last).saturating_sub(value(first)) / steps;
    println!("a step adds {} bytes of backups and {} of WAL, on average", added(|kept| kept.backup_bytes), added(|kept| kept.wal_bytes));
    let (wall, cpu) = (ms(restored.files.wall), ms(restored.files.cpu));
    println!("restore of the newest: {wall:.0} ms wall, {cpu:.0} CPU; until the server answers {:.0} ms more", ms(restored.replay));
}
