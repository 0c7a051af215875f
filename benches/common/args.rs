//! Arguments of a bench: `--name value` and `--name`.

use super::Result;

/// What stands behind `cargo bench --bench NAME --`.
pub struct Args(Vec<String>);

impl Args {
    /// The arguments of this process. `None` when it was not started by `cargo bench` (a test run builds and starts benches too).
    ///
    /// # Errors
    /// When an argument is none of `known`.
    pub fn read(known: &[&str]) -> Result<Option<Args>> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        if let Some(wrong) = args.iter().find(|arg| arg.starts_with("--") && *arg != "--bench" && !known.contains(&arg.as_str())) {
            return Err(format!("no such option: {wrong}; there are {}", known.join(" ")).into());
        }
        Ok(args.iter().any(|arg| arg == "--bench").then_some(Args(args)))
    }

    /// Whether `name` is there.
    pub fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|arg| arg == name)
    }

    /// What follows `name`.
    pub fn value(&self, name: &str) -> Option<&str> {
        let place = self.0.iter().position(|arg| arg == name)?;
        self.0.get(place + 1).map(String::as_str)
    }

    /// The number that follows `name`, else `default`.
    ///
    /// # Errors
    /// When it is no number.
    pub fn number(&self, name: &str, default: u32) -> Result<u32> {
        self.value(name).map_or(Ok(default), |text| text.parse().map_err(|_| format!("{name} {text}: no number").into()))
    }

    /// The size in bytes that follows `name` (`100MB`, `4GiB`, `4096`), else `default`.
    ///
    /// # Errors
    /// When it is no size.
    pub fn bytes(&self, name: &str, default: u64) -> Result<u64> {
        self.value(name).map_or(Ok(default), |text| parse_bytes(text).ok_or_else(|| format!("{name} {text}: no size").into()))
    }
}

/// The bytes that `100MB` or `4GiB` means.
pub fn parse_bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 6] =
        [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1));
    number.parse::<u64>().ok()?.checked_mul(unit)
}
