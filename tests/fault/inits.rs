//! Several `init`s of one place at once: their calls come in any order, and some of them die. Also key records that take long.

use std::io::ErrorKind;
use std::sync::Arc;

use icecore::Error;
use icecore::id::KeyId;
use icecore::store::backend::{Backend, ObjectKey, ObjectKind, Replica, WriteMode};
use icecore::store::format::key::{KDF_WORK_KIB_MAX, KEY_RECORDS_MAX, KdfCost, KeyRecord};
use icecore::store::repo::{InitOptions, OpenOptions, Repository};
use zeroize::Zeroizing;

use crate::hook::{Fate, Hooked};
use crate::memory::{Memory, Objects};
use crate::proof::{self, ORDERS};
use crate::schedule::{Baton, Turn};
use crate::support::CHEAP;
use crate::world::{Random, World, in_parallel, seed};

fn passphrase(number: usize) -> Zeroizing<String> {
    Zeroizing::new(format!("passphrase {number}"))
}

fn open(memory: Arc<Memory>, world: &World, number: usize) -> icecore::Result<Repository> {
    let ask = || Ok(passphrase(number));
    Repository::open(memory, &OpenOptions { passphrase: &ask, cache_dir: world.path("cache"), threads: 1, trust: Default::default() })
}

/// Two to four at once. One may make an unencrypted repository, and some may die.
fn run(number: u64) {
    let mut random = Random(number);
    let (world, memory) = (World::bare(), Memory::new(Objects::new()));
    let count = 2 + random.below(3);
    let plain = (random.below(4) == 0).then(|| random.below(count));
    let dies: Vec<usize> = (0..count).map(|_| if random.below(4) == 0 { random.below(12) } else { usize::MAX }).collect();
    let baton = Arc::new(Baton::new(count, Random(random.next())));
    let init = |me: usize| {
        let _turn = Turn(&baton, me);
        let (turn, dies) = (baton.clone(), dies[me]);
        let hooked = Hooked::new(memory.clone(), move |number, _| {
            turn.call(me);
            if number >= dies { Fate::Fail(ErrorKind::BrokenPipe) } else { Fate::Proceed }
        });
        let passphrase = (plain != Some(me)).then(|| passphrase(me));
        Repository::init(&hooked, &InitOptions { passphrase, cost: CHEAP, parity_percent: 0 })
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..count).map(|me| scope.spawn(move || init(me))).collect::<Vec<_>>();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let made: Vec<usize> = (0..count).filter(|me| results[*me].is_ok()).collect();
    assert!(made.len() <= 1, "{made:?} say that they made it");
    for (me, result) in results.iter().enumerate() {
        match result {
            Ok(_) => {}
            Err(Error::InvalidArgument(text)) => assert!(text.contains("holds a repository already"), "{text}"),
            Err(error) => assert!(dies[me] != usize::MAX, "{error}"),
        }
    }
    let has_config = memory.copy().keys().any(|key| key.kind() == ObjectKind::Config);
    assert!(has_config || made.is_empty() && dies.iter().all(|dies| *dies != usize::MAX), "somebody lived and none was made");
    if !has_config {
        // It can be made now.
        let options = InitOptions { passphrase: Some(passphrase(0)), cost: CHEAP, parity_percent: 0 };
        Repository::init(&*memory, &options).unwrap();
        open(memory, &world, 0).unwrap();
        return;
    }
    // Exactly one passphrase opens it, or none is needed; never is there one without a key.
    let opened: Vec<usize> = (0..count).filter(|me| open(memory.clone(), &world, *me).is_ok()).collect();
    let nobody_died = dies.iter().all(|dies| *dies == usize::MAX);
    match made.first() {
        Some(me) if plain == Some(*me) && nobody_died => assert_eq!(opened.len(), count, "it takes no passphrase"),
        Some(me) if plain == Some(*me) => {}
        Some(me) => assert_eq!(opened, [*me]),
        None if plain.is_some() => {}
        None => assert_eq!(opened.len(), 1),
    }
    if nobody_died {
        let keys = memory.copy().keys().filter(|key| key.kind() == ObjectKind::Key).count();
        assert_eq!(keys, if plain == made.first().copied() { 0 } else { 2 }, "no key but the winner's stays");
    }
}

#[test]
fn inits_at_once() {
    let first = seed();
    let seeds: Vec<u64> = (0..if proof::is_long() { 20_000 } else { 1500 }).map(|n| first.wrapping_add(n)).collect();
    in_parallel(&seeds, |seed| run(*seed));
    proof::count("inits at once", &[(ORDERS, seeds.len())]);
}

/// Key records that somebody has put beside the right one: too dear, broken, or thousands. The right one is found, or it is said why not.
#[test]
fn key_records_of_others() {
    let world = World::bare();
    let memory = Memory::new(Objects::new());
    Repository::init(&*memory, &InitOptions { passphrase: Some(passphrase(1)), cost: CHEAP, parity_percent: 0 }).unwrap();
    let (_, own) = memory.copy().into_iter().find(|(key, _)| key.kind() == ObjectKind::Key).unwrap();
    let own = KeyRecord::decode(&own).unwrap();
    let put = |number: u32, cost: KdfCost| {
        let id = KeyId(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let bytes = KeyRecord { cost, ..own.clone() }.encode();
        for replica in [Replica::First, Replica::Second] {
            memory.write(&ObjectKey::Key(id, replica), &[&bytes], WriteMode::CreateNew).unwrap();
        }
    };
    // Today's hours and gigabytes, and what no machine has.
    put(1, KdfCost { memory_kib: 1 << 20, passes: 64, lanes: 4 });
    put(2, KdfCost { memory_kib: u32::MAX, passes: u32::MAX, lanes: 1 });
    put(3, KdfCost { memory_kib: 8, passes: 1, lanes: 64 });
    open(memory.clone(), &world, 1).unwrap();
    // With another passphrase it is said that not all could be tried.
    let refused = open(memory.clone(), &world, 2).unwrap_err();
    assert!(refused.is_damage() && refused.to_string().contains("out of bounds"), "{refused}");
    // As dear as can be, and many: what they take together is bounded, and the cheap one comes first.
    let before = memory.copy();
    (10..60).for_each(|number| put(number, KdfCost { memory_kib: 16 << 10, passes: (KDF_WORK_KIB_MAX >> 14) as u32, lanes: 4 }));
    open(memory.clone(), &world, 1).unwrap();
    // More than are looked at: the right one is among these or it is said that there are too many.
    *memory.objects.lock().unwrap() = before;
    let cheap = KdfCost { memory_kib: 8, passes: 2, lanes: 1 };
    (100..100 + KEY_RECORDS_MAX as u32).for_each(|number| put(number, cheap));
    match open(memory.clone(), &world, 1) {
        Ok(_) => {}
        Err(error) => assert!(error.is_damage() && !matches!(error, Error::WrongPassphrase { .. }), "{error}"),
    }
}
