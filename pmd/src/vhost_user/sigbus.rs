//! Guest memory whose file shrinks: the access that finds no page any more costs the port, not
//! the process.
//!
//! In: the signal SIGBUS. Out: zero pages where the region was, so that the access that was
//! interrupted ends, and a mark on the region that its port looks at after each burst. What must
//! hold: an address outside every watched region goes on to the handler that was there before;
//! the handler touches nothing but atomics and two system calls (signal-safety(7)).

use std::{
    ffi::c_void,
    mem, ptr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// Most regions watched at once, of all ports.
const MAX_WATCHED: usize = 2048;

struct Slot {
    /// 0 when the slot is free or being filled.
    start: AtomicUsize,
    len: AtomicUsize,
    taken: AtomicBool,
    lost: AtomicBool,
}

static SLOTS: [Slot; MAX_WATCHED] = [const {
    Slot {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        taken: AtomicBool::new(false),
        lost: AtomicBool::new(false),
    }
}; MAX_WATCHED];

/// The handler that was there before, once ours is installed; the error when it cannot be.
static PREVIOUS: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// A mapping that is being watched.
#[derive(Debug)]
pub(super) struct Watch {
    slot: usize,
}

impl Watch {
    /// True once an access found a page gone.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        SLOTS[self.slot].lost.load(Ordering::Relaxed)
    }

    /// Ends the watch, before the mapping goes.
    pub(super) fn end(&mut self) {
        let slot = &SLOTS[self.slot];
        slot.start.store(0, Ordering::Release);
        slot.taken.store(false, Ordering::Release);
    }
}

/// Watches the mapping of `len` bytes at `start`; `None` when there are too many.
pub(super) fn watch(start: usize, len: usize) -> Option<Watch> {
    let free = |slot: &Slot| {
        slot.taken
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    };
    let slot = SLOTS.iter().position(free)?;
    SLOTS[slot].lost.store(false, Ordering::Relaxed);
    SLOTS[slot].len.store(len, Ordering::Relaxed);
    SLOTS[slot].start.store(start, Ordering::Release);
    Some(Watch { slot })
}

/// Installs the handler, once in the life of the process.
pub(super) fn install() {
    PREVIOUS.get_or_init(|| {
        // SAFETY: all zeros is a valid `sigaction`; the kernel fills `previous`, and the handler
        // is a function of the kind that SA_SIGINFO asks for.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let mut previous: libc::sigaction = mem::zeroed();
            let done = libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous);
            (done == 0).then_some(previous)
        }
    });
}

/// The handler.
extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid `info` (SA_SIGINFO), with an address for a fault.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    // A positive code is the kernel's own: the fault of an access, not somebody's kill(2).
    if code > 0 && contain(address) {
        return;
    }
    pass_on(signal, info, context);
}

/// Puts zero pages in the place of the watched mapping that holds `address`.
fn contain(address: usize) -> bool {
    for slot in &SLOTS {
        let start = slot.start.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if start == 0 || address.wrapping_sub(start) >= len {
            continue;
        }
        // SAFETY: `errno` belongs to the interrupted code and is put back. The mapping is the
        // port's own and stays its own; it only loses its file.
        unsafe {
            let errno = libc::__errno_location();
            let saved = *errno;
            let placed = libc::mmap(
                start as *mut c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            );
            *errno = saved;
            if placed == libc::MAP_FAILED {
                return false;
            }
        }
        slot.lost.store(true, Ordering::Release);
        return true;
    }
    false
}

fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.get().copied().flatten();
    match previous {
        Some(action)
            if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN =>
        {
            if action.sa_flags & libc::SA_SIGINFO == 0 {
                // SAFETY: without SA_SIGINFO the handler takes the signal's number only.
                let handler: extern "C" fn(libc::c_int) =
                    unsafe { mem::transmute(action.sa_sigaction) };
                handler(signal);
            } else {
                // SAFETY: with SA_SIGINFO the handler takes these three.
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) =
                    unsafe { mem::transmute(action.sa_sigaction) };
                handler(signal, info, context);
            }
        }
        // The default ends the process, when the access is made again.
        // SAFETY: all zeros is SIG_DFL without flags.
        _ => unsafe {
            let action: libc::sigaction = mem::zeroed();
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        },
    }
}
