//! The nodes of a mesh by id, in parts that snapshots share: a node that joins costs one part, not
//! the map.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use identity::NodeId;

use super::Place;

/// All nodes.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    parts: Box<[Arc<Part>]>,
}

type Part = HashMap<NodeId, Place, BuildHasherDefault<IdHasher>>;

impl Nodes {
    pub fn get(&self, id: &NodeId) -> Option<&Place> {
        self.parts[part_of(id)].get(id)
    }

    pub fn insert(&mut self, place: Place) {
        let id = place.facts.id;
        Arc::make_mut(&mut self.parts[part_of(&id)]).insert(id, place);
    }

    pub fn remove(&mut self, id: &NodeId) {
        Arc::make_mut(&mut self.parts[part_of(id)]).remove(id);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.parts.iter().flat_map(|part| part.values())
    }
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Arc::default()).collect(),
        }
    }
}

/// Node ids are hashes already (identity.md §3), of what an issuer signed: nobody chooses them
/// freely, so their own bits spread them.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.write_u64(u64::from_le_bytes(word.try_into().unwrap_or_default()));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let of_rest = |word, byte: &u8| (word << 8) | u64::from(*byte);
            self.write_u64(rest.iter().fold(0, of_rest));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // Ids that are no hashes, in tests, differ in few bits: the product spreads them (Fibonacci
        // hashing; the constant is 2^64 over the golden ratio).
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 ^= u64::from(byte);
    }

    /// A length that is always the same tells nothing.
    fn write_usize(&mut self, _: usize) {}
}

fn part_of(id: &NodeId) -> usize {
    usize::from(id.0[15])
}

/// One for each value of the last byte of an id: about the square root of 100,000, so that sharing
/// the parts and copying one cost the same.
const PARTS: usize = 256;
