//! Nothing is allocated for a packet: neither by the mesh socket nor by the overlay's rings.
#![allow(unsafe_code)] // a global allocator is unsafe by its trait

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Waker};

use common::address;
use net::overlay::overlay;
use net::udp::{MeshSocket, RecvBatch};
use quinn::AsyncUdpSocket;
use quinn::udp::{RecvMeta, Transmit};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain cell of the
// thread that allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as our caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as our caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as our caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> usize {
    ALLOCATIONS.with(Cell::get)
}

#[tokio::test]
async fn the_mesh_socket_allocates_nothing_for_a_packet() {
    let a = MeshSocket::bind(0).expect("bound");
    let b = MeshSocket::bind(0).expect("bound");
    let remote: SocketAddr = (Ipv4Addr::LOCALHOST, b.local_addr().port()).into();
    let bytes = vec![7; 44 * 1_472];
    let mut batch = RecvBatch::new();
    let mut before = 0;
    for round in 0..60 {
        if round == 10 {
            before = allocations();
        }
        a.try_send(remote, &bytes, 1_472).expect("sent");
        let mut got = 0;
        while got < bytes.len() {
            b.recv(&mut batch).await.expect("received");
            got += batch
                .iter_mut()
                .map(|received| received.bytes.len())
                .sum::<usize>();
        }
    }
    assert_eq!(allocations() - before, 0, "in 50 rounds of 44 datagrams");
}

#[test]
fn the_overlay_allocates_nothing_for_a_packet() {
    let ((a, mut to_a), (b, mut to_b)) = (overlay(address(1)), overlay(address(2)));
    let mut cx = Context::from_waker(Waker::noop());
    let contents = vec![7; 10 * 1_392];
    let transmit = Transmit {
        destination: b.addr().into(),
        ecn: None,
        contents: &contents,
        segment_size: Some(1_392),
        src_ip: None,
    };
    let mut store = vec![0; 4 * 32 * 1_392];
    let mut metas = [RecvMeta::default(); 4];
    let mut before = 0;
    for round in 0..60 {
        if round == 10 {
            before = allocations();
        }
        for _ in 0..6 {
            a.try_send(&transmit).expect("room");
        }
        let mut packets = 0;
        while to_a.poll_packets(&mut cx, 64, &mut |packet| {
            packets += 1;
            to_b.deliver(packet);
        }) != std::task::Poll::Pending
        {}
        assert_eq!(packets, 60);
        let mut chunks = store.chunks_mut(32 * 1_392);
        let mut buffers: [IoSliceMut<'_>; 4] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().expect("four")));
        let mut got = 0;
        while let std::task::Poll::Ready(Ok(count)) = b.poll_recv(&mut cx, &mut buffers, &mut metas)
        {
            for meta in &metas[..count] {
                assert_eq!((meta.stride, meta.addr), (1_392, a.addr().into()));
                got += meta.len;
            }
        }
        assert_eq!(got, 6 * contents.len());
    }
    assert_eq!(allocations() - before, 0, "in 50 rounds of 60 packets");
}
