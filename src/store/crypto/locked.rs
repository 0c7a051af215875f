//! A page of memory for keys, which is not written to swap space.

use std::ffi::c_void;

use zeroize::Zeroize;

/// The smallest page of the systems that icecore runs on. On those with larger ones the lock is on the whole of the larger page.
const PAGE: usize = 4096;

/// Bytes on a page of their own: nothing else is unlocked with them when they are dropped.
#[repr(C, align(4096))]
struct Page<const LEN: usize> {
    bytes: [u8; LEN],
}

/// Bytes that are locked in memory where the system allows it, and overwritten when they are dropped.
pub(super) struct Locked<const LEN: usize> {
    page: Box<Page<LEN>>,
    is_locked: bool,
}

impl<const LEN: usize> Locked<LEN> {
    /// Where `fill` writes them, no copy is left on the stack.
    pub(super) fn new(fill: impl FnOnce(&mut [u8; LEN])) -> Self {
        let mut page = Box::new(Page { bytes: [0; LEN] });
        // SAFETY: the range is the box's own. mlock changes nothing of what is there; the box does not move, and unlocks before it goes.
        // RLIMIT_MEMLOCK may refuse, as may systems without swap: then the keys are in memory as everything else is.
        let is_locked = unsafe { rustix::mm::mlock(address(&mut page), size_of::<Page<LEN>>()) }.is_ok();
        fill(&mut page.bytes);
        Locked { page, is_locked }
    }

    pub(super) fn bytes(&self) -> &[u8; LEN] {
        &self.page.bytes
    }
}

fn address<const LEN: usize>(page: &mut Page<LEN>) -> *mut c_void {
    const { assert!(align_of::<Page<LEN>>() == PAGE && size_of::<Page<LEN>>().is_multiple_of(PAGE)) };
    std::ptr::from_mut(page).cast()
}

impl<const LEN: usize> Drop for Locked<LEN> {
    fn drop(&mut self) {
        self.page.bytes.zeroize();
        if self.is_locked {
            // SAFETY: the range was locked in `new` and is still the box's own.
            let _ = unsafe { rustix::mm::munlock(address(&mut self.page), size_of::<Page<LEN>>()) };
        }
    }
}
