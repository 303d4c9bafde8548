//! In steady state a packet costs no allocation, sent or received, straight or in parts.

#[path = "pair/harness.rs"]
mod pair;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use pair::{MS, Pair};
use tunnel::{Link, Output};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all is left to the system's allocator; counting touches a thread-local cell only.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A batch as the kernel gives it: datagrams to take, in buffers of the test.
struct Batch {
    link: Option<Link>,
    bytes: Vec<u8>,
    segment_size: usize,
}

#[test]
fn sending_and_receiving_packets_allocates_nothing() {
    // Over the router's port, and in a flow of which both remember whose it is.
    for (direct, port) in [(true, 4747), (false, 4747), (true, 5000)] {
        let mut pair = Pair::new();
        let policy = r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "msg": ["send"]}]}"#;
        let filter = pair::filter_under(policy, &pair.nodes, 1);
        pair.nodes[1].tunnel.set_filter(filter, pair.now);
        pair.cut = [!direct, !direct];
        pair.send(0, 300).expect("queued");
        pair.run(3000 * MS);
        assert_eq!(pair.kind(0), if direct { "direct" } else { "relay" });
        let packet = pair::packet(pair.nodes[0].overlay, pair.nodes[1].overlay, port, 1240);
        let mut batches: Vec<Batch> = (0..256)
            .map(|_| Batch {
                link: None,
                bytes: Vec::with_capacity(65_536),
                segment_size: 0,
            })
            .collect();
        for _ in 0..3 {
            exchange(&mut pair, &packet, &mut batches);
        }

        let before = ALLOCATIONS.get();
        let mut delivered = 0;
        for _ in 0..50 {
            delivered += exchange(&mut pair, &packet, &mut batches);
        }

        assert_eq!(delivered, 50 * 40);
        assert_eq!(
            ALLOCATIONS.get() - before,
            0,
            "allocations for {delivered} packets, direct: {direct}, port {port}"
        );
        let flows = [0, 1].map(|n| pair.nodes[n].tunnel.status(pair.now).next());
        let [ours, theirs] = flows.map(|peer| peer.expect("one peer").flows);
        let expected = usize::from(port == 5000);
        assert_eq!((ours.local, theirs.remote), (expected, expected));
    }
}

/// Forty packets from node 0 to node 1, by hand: the harness allocates.
fn exchange(pair: &mut Pair, packet: &[u8], batches: &mut [Batch]) -> usize {
    let now = pair.now;
    for _ in 0..40 {
        pair.nodes[0]
            .tunnel
            .handle_packet(packet, now)
            .expect("sent");
    }
    let mut used = 0;
    while let Output::Transmit {
        link,
        bytes,
        segment_size,
    } = pair.nodes[0].tunnel.poll_output()
    {
        let batch = &mut batches[used];
        batch.bytes.clear();
        batch.bytes.extend_from_slice(bytes);
        (batch.link, batch.segment_size) = (Some(*link), segment_size);
        used += 1;
    }
    let seen = [
        Link::Direct {
            remote: pair.nodes[0].addr,
        },
        Link::Relay {
            relay: pair::RELAY,
            peer: pair.nodes[0].id,
        },
    ];
    let mut delivered = 0;
    for batch in &mut batches[..used] {
        let direct = batch.link.is_some_and(|link| link.is_direct());
        for datagram in batch.bytes.chunks_mut(batch.segment_size) {
            let link = &seen[usize::from(!direct)];
            pair.nodes[1]
                .tunnel
                .handle_datagram(link, datagram, now)
                .expect("authentic");
        }
    }
    loop {
        match pair.nodes[1].tunnel.poll_output() {
            Output::Deliver { packet, .. } => delivered += usize::from(packet.len() == 1240),
            Output::Wait(_) => break delivered,
            _ => {}
        }
    }
}
