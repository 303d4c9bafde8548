//! Values in numbered slots, each in one of several lists that are kept in order of last use: the
//! oldest of a list is found, and any value renewed, in constant time and without allocating.
//!
//! **Invariant:** a slot is in exactly one list, or it is free and in none.

/// A slot's number, good until it is removed.
pub(crate) type Slot = u32;

/// Slots in `LISTS` lists, oldest first.
#[derive(Debug)]
pub(crate) struct Slots<T, const LISTS: usize> {
    places: Vec<Place<T>>,
    lists: [List; LISTS],
    /// The first free place; its `next` is the next one.
    free: Slot,
}

#[derive(Debug)]
struct Place<T> {
    value: T,
    list: usize,
    older: Slot,
    next: Slot,
}

#[derive(Clone, Copy, Debug)]
struct List {
    oldest: Slot,
    newest: Slot,
    length: usize,
}

impl<T: Copy, const LISTS: usize> Slots<T, LISTS> {
    pub(crate) fn new() -> Self {
        let empty = List {
            oldest: NONE,
            newest: NONE,
            length: 0,
        };
        Self {
            places: Vec::new(),
            lists: [empty; LISTS],
            free: NONE,
        }
    }

    /// A new value, the newest of this list.
    pub(crate) fn insert(&mut self, list: usize, value: T) -> Slot {
        let slot = match self.free {
            NONE => {
                let slot = Slot::try_from(self.places.len()).unwrap_or(NONE);
                assert!(slot != NONE, "the caller bounds the number of values");
                self.places.push(Place {
                    value,
                    list,
                    older: NONE,
                    next: NONE,
                });
                slot
            }
            slot => {
                self.free = self.place(slot).next;
                self.place(slot).value = value;
                slot
            }
        };
        self.join(slot, list);
        slot
    }

    /// Removes a value; its number may then be used again.
    pub(crate) fn remove(&mut self, slot: Slot) -> T {
        self.leave(slot);
        let free = std::mem::replace(&mut self.free, slot);
        let place = self.place(slot);
        place.next = free;
        place.value
    }

    /// Makes a value the newest of this list, whichever it was in.
    pub(crate) fn renew(&mut self, slot: Slot, list: usize) {
        if self.places[index(slot)].list == list && self.lists[list].newest == slot {
            return;
        }
        self.leave(slot);
        self.join(slot, list);
    }

    pub(crate) fn get(&self, slot: Slot) -> &T {
        &self.places[index(slot)].value
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut T {
        &mut self.place(slot).value
    }

    /// How many values a list has.
    pub(crate) fn length(&self, list: usize) -> usize {
        self.lists[list].length
    }

    /// The slots of a list, oldest first.
    pub(crate) fn iter(&self, list: usize) -> impl Iterator<Item = Slot> {
        let mut next = self.lists[list].oldest;
        std::iter::from_fn(move || {
            let place = self.places.get(index(next))?;
            Some(std::mem::replace(&mut next, place.next))
        })
    }

    fn join(&mut self, slot: Slot, list: usize) {
        let older = self.lists[list].newest;
        let place = self.place(slot);
        (place.list, place.older, place.next) = (list, older, NONE);
        match older {
            NONE => self.lists[list].oldest = slot,
            older => self.place(older).next = slot,
        }
        self.lists[list].newest = slot;
        self.lists[list].length += 1;
    }

    fn leave(&mut self, slot: Slot) {
        let &Place {
            list, older, next, ..
        } = &self.places[index(slot)];
        match older {
            NONE => self.lists[list].oldest = next,
            older => self.place(older).next = next,
        }
        match next {
            NONE => self.lists[list].newest = older,
            next => self.place(next).older = older,
        }
        self.lists[list].length -= 1;
    }

    fn place(&mut self, slot: Slot) -> &mut Place<T> {
        &mut self.places[index(slot)]
    }
}

fn index(slot: Slot) -> usize {
    slot as usize
}

const NONE: Slot = Slot::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn values(slots: &Slots<char, 2>, list: usize) -> String {
        slots.iter(list).map(|slot| *slots.get(slot)).collect()
    }

    #[test]
    fn the_oldest_comes_first_and_use_renews() {
        let mut slots = Slots::<char, 2>::new();
        let [a, b, c] = ['a', 'b', 'c'].map(|value| slots.insert(0, value));

        slots.renew(a, 0);
        assert_eq!(values(&slots, 0), "bca");
        slots.renew(c, 1);
        assert_eq!([values(&slots, 0), values(&slots, 1)], ["ba", "c"]);
        assert_eq!([slots.length(0), slots.length(1)], [2, 1]);

        assert_eq!(slots.remove(b), 'b');
        slots.renew(a, 0);
        assert_eq!(values(&slots, 0), "a");
    }

    #[test]
    fn free_places_are_used_again() {
        let mut slots = Slots::<char, 2>::new();
        let kept = slots.insert(0, 'k');
        for _ in 0..100 {
            let [a, b] = ['a', 'b'].map(|value| slots.insert(1, value));
            assert_eq!(values(&slots, 1), "ab");
            slots.remove(a);
            slots.remove(b);
        }

        assert_eq!(slots.places.len(), 3);
        assert_eq!(*slots.get(kept), 'k');
        assert_eq!([values(&slots, 0), values(&slots, 1)], ["k", ""]);
    }
}
