//! What a guest puts into its rings and buffers, both ways: `front_end::random::rings` says what
//! must hold.

#![no_main]

#[path = "../../pmd/tests/front_end/mod.rs"]
mod front_end;

use std::cell::RefCell;

use front_end::{
    Bed,
    random::{Bytes, rings},
};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static BED: RefCell<Bed> = RefCell::new(Bed::new());
}

fuzz_target!(|data: &[u8]| {
    BED.with_borrow_mut(|bed| rings(bed, &mut Bytes(data), "fuzz"));
});
