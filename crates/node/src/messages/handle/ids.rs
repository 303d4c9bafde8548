//! Fresh ids.

use std::cell::RefCell;

use wire::MessageId;

use crate::messages::task::unix_ms;

/// A fresh id: now, and ten random bytes.
pub fn fresh_id() -> MessageId {
    let random = RANDOM.with_borrow_mut(|random| {
        if random.is_empty() {
            random.resize(IDS_AT_ONCE, [0; ID_RANDOM]);
            getrandom::fill(random.as_flattened_mut())
                .expect("the kernel's random source does not fail after boot");
        }
        random.pop().unwrap_or_default()
    });
    MessageId::new(unix_ms(), random)
}

thread_local! {
    /// The kernel's bytes for ids, fetched for many at once: the call costs more than they do.
    static RANDOM: RefCell<Vec<[u8; ID_RANDOM]>> = const { RefCell::new(Vec::new()) };
}

const ID_RANDOM: usize = 10;
/// The kernel gives up to 256 bytes without being interrupted (getrandom(2)).
const IDS_AT_ONCE: usize = 25;
