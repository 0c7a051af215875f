//! What the fault tests tried, counted: every run says it in one line, `scripts/proof.sh` adds the lines up.
// Each test binary uses a part of it.
#![allow(dead_code)]

/// Cuts of the power, each at another step.
pub const CRASH_POINTS: &str = "crash points";
/// States of the disk after a cut that were looked at.
pub const OUTCOMES: &str = "outcomes";
/// Calls that failed or lied.
pub const FAULTS: &str = "faults";
/// Single bits that were flipped, each in another byte or another run.
pub const FLIPS: &str = "byte flips";
/// Objects that were cut off, each at another length.
pub const CUTS: &str = "truncations";
/// Other damage of whole objects.
pub const DAMAGES: &str = "objects damaged";
/// Processes that were killed or suspended.
pub const KILLS: &str = "kills";
/// Steps of histories that were compared with plain copies.
pub const MODEL_STEPS: &str = "model steps";
/// Orders in which the calls of several at once were made.
pub const ORDERS: &str = "orders of calls";
/// Inputs that were given to decoders.
pub const INPUTS: &str = "decoder inputs";

/// Prints what was tried: `proof: WHAT: 12 crash points, 48 outcomes`.
pub fn count(what: &str, counts: &[(&str, usize)]) {
    assert!(!what.contains(':'), "the colon ends the name");
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    println!("proof: {what}: {}", counts.join(", "));
}

/// A part of an exhaustive list, one case in so many, drawn by the seed: the whole list takes minutes, and every test run has only so many.
/// `scripts/proof.sh` tries all of it.
pub fn some_of<C>(cases: Vec<C>, one_in: u64, seed: u64) -> Vec<C> {
    if std::env::var_os("ICECORE_PROOF").is_some() {
        return cases;
    }
    // Numbers that have nothing to do with how the list is made, or whole kinds of cases would be left out (splitmix64).
    let drawn = |number: u64| {
        let mixed = (number ^ seed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 31).is_multiple_of(one_in)
    };
    (0..).zip(cases).filter(|(number, _)| drawn(*number)).map(|(_, case)| case).collect()
}

/// How many: of a thing that is tried many times, a plain test run tries `some`, and `scripts/proof.sh` tries `all`.
pub fn all_or(all: u32, some: u32) -> u32 {
    if std::env::var_os("ICECORE_PROOF").is_some() { all } else { some }
}

/// Whether the long versions are wanted: `ICECORE_PROOF=long`.
pub fn is_long() -> bool {
    std::env::var("ICECORE_PROOF").is_ok_and(|value| value == "long")
}
