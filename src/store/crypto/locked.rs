//! Holds keys in memory that is not written to swap space, as far as the system allows it.
//! The bytes are overwritten when they are dropped. If the system refuses the lock, the keys are in ordinary memory.
//! Each key has pages of its own, so unlocking one key does not unlock another. The unsafe code relies on a box that
//! does not move its content.

use std::ffi::c_void;

use zeroize::Zeroize;

/// The smallest page of the systems that icecore runs on. On a system with larger pages the lock covers a whole larger
/// page.
const PAGE: usize = 4096;

/// Bytes on a page of their own, so that unlocking them does not unlock other keys.
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
    /// Locks the memory first, and then lets `fill` write into it, so that no copy is left on the stack.
    pub(super) fn new(fill: impl FnOnce(&mut [u8; LEN])) -> Self {
        let mut page = Box::new(Page { bytes: [0; LEN] });
        // SAFETY: the range belongs to the box. mlock does not change its content. The box does not move, and the range
        // is unlocked before it is freed. If the system refuses (RLIMIT_MEMLOCK), the keys are in ordinary memory.
        let is_locked = unsafe { rustix::mm::mlock(address(&mut page), size_of::<Page<LEN>>()) }.is_ok();
        fill(&mut page.bytes);
        Locked { page, is_locked }
    }

    pub(super) fn bytes(&self) -> &[u8; LEN] {
        &self.page.bytes
    }
}

/// The address of a page, which is the start of a page of memory.
fn address<const LEN: usize>(page: &mut Page<LEN>) -> *mut c_void {
    const { assert!(align_of::<Page<LEN>>() == PAGE && size_of::<Page<LEN>>().is_multiple_of(PAGE)) };
    std::ptr::from_mut(page).cast()
}

impl<const LEN: usize> Drop for Locked<LEN> {
    fn drop(&mut self) {
        self.page.bytes.zeroize();
        if self.is_locked {
            // SAFETY: the range was locked in `new` and still belongs to the box.
            let _ = unsafe { rustix::mm::munlock(address(&mut self.page), size_of::<Page<LEN>>()) };
        }
    }
}
