//! The command `init`.

use icecore::store::format::parity::{PARITY_PERCENT_DEFAULT, PARITY_PERCENT_MAX};
use std::sync::Arc;

use icecore::fs::disk::RealDisk;
use icecore::ops::init::{InitReport, init};
use icecore::ops::journaled::Report;
use icecore::store::backend::Backend;
use icecore::store::backend::local::LocalBackend;
use icecore::store::format::key::KdfCost;
use icecore::store::repo::InitOptions;
use icecore::{Error, Result};

use super::context::Context;
use super::exit::{Exit, Failure};
use super::passphrase;

/// Make a repository
#[derive(Debug, clap::Args)]
#[command(after_help = "Parity is for bad sectors and flipped bits: a lost pack is not covered. It is for ever, like encryption.\n\n\
                        Examples:\n  icecore -R /srv/backup/brain init\n  icecore -R /mnt/usb/brain init --parity 10%")]
pub(crate) struct InitArgs {
    /// Store everything readable for anyone who can read the repository
    #[arg(long)]
    pub(crate) no_encryption: bool,
    /// Store so much parity in every pack, and records twice: damage up to that is healed (0%: none, to 50%)
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value_t = PARITY_PERCENT_DEFAULT)]
    pub(crate) parity: u8,
}

/// A whole number of percent, with its sign or without.
fn percent(text: &str) -> Result<u8, String> {
    let number: Option<u8> = text.trim().trim_end_matches('%').trim_end().parse().ok();
    let fits = number.filter(|percent| *percent <= PARITY_PERCENT_MAX);
    fits.ok_or_else(|| format!("a whole number of percent is needed, from 0% to {PARITY_PERCENT_MAX}%"))
}

pub(crate) fn run(context: &Context<'_>, args: &InitArgs) -> Result<Exit, Failure> {
    let path = context.repository_path()?;
    let disk = Arc::new(RealDisk);
    let taken = |location: &str| Failure::failed(format!("{location} holds a repository already; nothing was changed"));
    // Look before asking for the passphrase. If two processes make a repository at once, the library decides which one wins.
    match LocalBackend::open(&path, disk.clone()) {
        Ok(there) => return Err(taken(&there.location())),
        Err(Error::NoRepository { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let passphrase = match args.no_encryption {
        true => None,
        false => Some(passphrase::of_new_repository(&path.display().to_string(), context.cancelled(), &|text| context.output.warn(text))?),
    };
    let backend = LocalBackend::create(&path, disk)?;
    let options = InitOptions { passphrase, cost: KdfCost::DEFAULT, parity_percent: args.parity };
    let report = init(&backend, &options, context.local_dir()).map_err(|error| match error {
        Error::InvalidArgument(_) => taken(&backend.location()),
        other => other.into(),
    })?;
    context.output.report(&report, text)?;
    Ok(report.outcome().into())
}

fn text(made: &InitReport) -> String {
    let last = match made.encrypted {
        true => "It is encrypted: without the passphrase the data is lost. Keep the passphrase in a safe place.",
        false => "It is not encrypted: everybody who can read it can read the data.",
    };
    let parity = match made.parity {
        0 => String::new(),
        percent => format!("Packs carry {percent} % of parity, and records a second copy: bad sectors are healed, lost files are not.\n"),
    };
    format!("made repository {} in {}\n{parity}{last}\n", made.repository.short(), made.location)
}
