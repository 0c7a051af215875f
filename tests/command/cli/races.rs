//! Processes that begin at the same moment.

use std::process::Stdio;

use super::support::{Place, Run};

/// Several `init`s at one place: one makes the repository, with its passphrase, and the others say so.
#[test]
fn inits_of_one_place() {
    for round in 0..4 {
        let place = Place::new();
        // In the last round one of them makes it without encryption.
        let started: Vec<_> = (0..4)
            .map(|number| {
                let mut command = place.command();
                command.arg("init").env("ICECORE_PASSWORD", format!("passphrase {number}"));
                if round == 3 && number == 0 {
                    command.arg("--no-encryption");
                }
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let ended: Vec<Run> = started.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
        let winners: Vec<usize> = (0..ended.len()).filter(|number| ended[*number].code == Some(0)).collect();
        let [winner] = winners[..] else { panic!("{winners:?} made the repository") };
        ended
            .iter()
            .enumerate()
            .filter(|(number, _)| *number != winner)
            .for_each(|(_, run)| run.failed(1, &["holds a repository already"]));
        for number in 0..ended.len() {
            let opened: Run =
                place.command().arg("snapshots").env("ICECORE_PASSWORD", format!("passphrase {number}")).output().unwrap().into();
            let expected = match number == winner {
                // Not encrypted, and a passphrase is configured.
                _ if round == 3 && winner == 0 => 1,
                true => 0,
                false => 12,
            };
            assert_eq!(opened.code, Some(expected), "{}", opened.stderr);
        }
        if round == 3 && winner == 0 {
            place.ok(["snapshots"]);
        }
        let keys = if round == 3 && winner == 0 { 0 } else { 2 };
        assert_eq!(place.stored("keys").len(), keys, "both copies of the winner's key and no other");
    }
}
