//! Turns a panic, which is a bug of icecore, into a failure.
//! The command ends with one message and exit code 1, as with any failure, instead of a stack trace. It relies on
//! `note_panics`, which notes the place and silences the usual message (unless RUST_BACKTRACE asks for it).

use std::any::Any;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Mutex, PoisonError};

use icecore::Error;

use super::exit::Failure;

/// Where the last panic was.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Notes panics instead of printing them, unless a backtrace is asked for.
pub(crate) fn note_panics() {
    let usual = take_hook();
    set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = info.location().map(ToString::to_string);
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|wanted| wanted != "0") {
            usual(info);
        }
    }));
}

/// Runs `work`. A panic in it becomes a failure.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(failure(&*panic)))
}

fn failure(panic: &(dyn Any + Send)) -> Failure {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| "an unknown place".to_owned());
    Failure::from(Error::bug(format!("{} ({place})", said.unwrap_or("it did not say why"))))
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::super::exit::Exit;
    use super::*;

    #[test]
    fn a_panic_is_a_failure_with_one_message() {
        let failed = guarded(|| -> Result<(), Failure> { panic!("row {} is not there", 7) });
        let failure = failed.err().unwrap_or_else(|| Failure::usage("it did not fail"));
        assert_eq!((failure.exit, failure.code), (Exit::Failed, "bug"));
        assert!(
            failure.message.contains("fault of icecore itself") && failure.message.contains("row 7 is not there"),
            "{}",
            failure.message
        );
        assert_eq!(guarded(|| Ok(1)), Ok(1));
    }
}
