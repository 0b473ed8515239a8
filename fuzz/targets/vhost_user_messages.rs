//! What a front end says: whatever it is, the port then serves a front end that says the right
//! things.

#![no_main]

#[path = "../../pmd/tests/front_end/mod.rs"]
mod front_end;

use std::cell::RefCell;

use front_end::{
    Bed,
    random::{Bytes, all_is_well, messages},
};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static BED: RefCell<Bed> = RefCell::new(Bed::new());
}

fuzz_target!(|data: &[u8]| {
    BED.with_borrow_mut(|bed| {
        messages(bed, &mut Bytes(data));
        all_is_well(bed);
    });
});
