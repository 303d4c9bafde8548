//! Blocks of addresses (`192.168.1.0/24`, or one address), and sets of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that share their first bits. The bits after them are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

/// Any set of addresses, as ranges that are sorted, apart, and inclusive at both ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressSet {
    ranges: Vec<(IpAddr, IpAddr)>,
}

impl Prefix {
    /// Every IPv4 address.
    pub const ALL_V4: Self = Self {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        bits: 0,
    };

    /// Every IPv6 address.
    pub const ALL_V6: Self = Self {
        address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        bits: 0,
    };

    /// The block that holds one address alone.
    pub fn host(address: IpAddr) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Self { address, bits }
    }

    /// The block of that length around an address; bits past the family's length count as all.
    pub fn around(address: IpAddr, bits: u8) -> Self {
        let bits = bits.min(Self::host(address).bits);
        Self {
            address: masked(address, bits),
            bits,
        }
    }

    /// Whether the address is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == self.address
    }

    /// Whether some address is in both blocks: then one holds the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Whether every address of the other block is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }

    /// How many leading bits its addresses share.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The first address of the block.
    pub fn first(&self) -> IpAddr {
        self.address
    }

    /// The last address of the block.
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() | host).into()
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() | host).into()
            }
        }
    }

    /// Whether it holds every address of its family: as a route, the way to the internet.
    pub fn is_everything(&self) -> bool {
        self.bits == 0
    }
}

impl AddressSet {
    /// Adds a block.
    pub fn insert(&mut self, block: Prefix) {
        self.insert_range(block.first(), block.last());
    }

    /// Adds every address from `first` to `last`, which are of one family and in order.
    pub fn insert_range(&mut self, first: IpAddr, last: IpAddr) {
        // Ranges that touch become one, so that equal sets are equal values.
        let (mut first, mut last) = (first, last);
        let start = self
            .ranges
            .partition_point(|(_, end)| *end < first && successor(*end) != Some(first));
        let mut stop = start;
        while let Some((from, to)) = self.ranges.get(stop) {
            let touches = from.is_ipv4() == last.is_ipv4()
                && (*from <= last || successor(last) == Some(*from));
            if !touches {
                break;
            }
            (first, last) = (first.min(*from), last.max(*to));
            stop += 1;
        }
        self.ranges.splice(start..stop, [(first, last)]);
    }

    /// Takes a block out.
    pub fn remove(&mut self, block: Prefix) {
        let (first, last) = (block.first(), block.last());
        let mut kept = Vec::with_capacity(self.ranges.len() + 1);
        for &(from, to) in &self.ranges {
            if to < first || from > last {
                kept.push((from, to));
                continue;
            }
            if let Some(before) = predecessor(first).filter(|_| from < first) {
                kept.push((from, before));
            }
            if let Some(after) = successor(last).filter(|_| to > last) {
                kept.push((after, to));
            }
        }
        self.ranges = kept;
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &Self) {
        for &(first, last) in &other.ranges {
            self.insert_range(first, last);
        }
    }

    /// Whether the address is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < address);
        self.ranges
            .get(at)
            .is_some_and(|(first, _)| *first <= address)
    }

    /// Whether some address of the block is in the set.
    pub fn overlaps(&self, block: &Prefix) -> bool {
        let at = self
            .ranges
            .partition_point(|(_, last)| *last < block.first());
        self.ranges
            .get(at)
            .is_some_and(|(first, _)| *first <= block.last())
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The set as blocks, as few as possible.
    pub fn blocks(&self) -> Vec<Prefix> {
        let mut blocks = Vec::new();
        for &(first, last) in &self.ranges {
            let mut next = Some(first);
            while let Some(start) = next.filter(|start| *start <= last) {
                let fits = (0..=Prefix::host(start).bits)
                    .map(|bits| Prefix::around(start, bits))
                    .find(|block| block.first() == start && block.last() <= last)
                    .unwrap_or(Prefix::host(start));
                blocks.push(fits);
                next = successor(fits.last());
            }
        }
        blocks
    }

    /// The ranges, sorted, inclusive at both ends.
    pub fn ranges(&self) -> &[(IpAddr, IpAddr)] {
        &self.ranges
    }
}

impl FromIterator<Prefix> for AddressSet {
    fn from_iter<I: IntoIterator<Item = Prefix>>(blocks: I) -> Self {
        let mut set = Self::default();
        blocks.into_iter().for_each(|block| set.insert(block));
        set
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(bits.min(32)))
                .unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(bits.min(128)))
                .unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// The next address of the same family.
pub(crate) fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?).into()),
        IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits().checked_add(1)?).into()),
    }
}

/// The address before, of the same family.
pub(crate) fn predecessor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(Ipv4Addr::from_bits(v4.to_bits().checked_sub(1)?).into()),
        IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits().checked_sub(1)?).into()),
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, ParsePrefixError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ParsePrefixError::Syntax)?;
        let whole = Self::host(address).bits;
        let bits = match bits {
            None => whole,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|bits| *bits <= whole)
                .ok_or(ParsePrefixError::Syntax)?,
            Some(_) => return Err(ParsePrefixError::Syntax),
        };
        let prefix = Self::around(address, bits);
        match prefix.address == address {
            true => Ok(prefix),
            false => Err(ParsePrefixError::HostBits(prefix)),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.bits) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => self.address.fmt(f),
            (address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

/// Why text is not a block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePrefixError {
    /// Neither an address nor `ADDRESS/BITS`.
    #[error("no IP address and no CIDR block")]
    Syntax,
    /// Bits are set after the prefix; this is the block it lies in.
    #[error("bits are set after the prefix: did you mean {0}?")]
    HostBits(Prefix),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Prefix {
        text.parse().expect("a block")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_block_holds_what_shares_its_bits() {
        let lab = block("10.20.0.0/16");

        assert!(lab.contains(address("10.20.255.1")));
        assert!(!lab.contains(address("10.21.0.1")));
        assert!(!lab.contains(address("fd7a::1")));
        assert!(block("::/0").contains(address("fd7a::1")));
        assert_eq!(lab.last(), address("10.20.255.255"));
        assert!(lab.overlaps(&block("10.0.0.0/8")) && lab.overlaps(&block("10.20.3.0/24")));
        assert!(!lab.overlaps(&block("10.21.0.0/16")) && lab.covers(&block("10.20.3.0/24")));
        assert_eq!(
            "10.20.1.0/16".parse::<Prefix>(),
            Err(ParsePrefixError::HostBits(lab))
        );
        for text in ["10.20.0.0/33", "10.20.0.0/+16", "10.20.0.0/", "nas"] {
            assert_eq!(text.parse::<Prefix>(), Err(ParsePrefixError::Syntax));
        }
    }

    #[test]
    fn a_set_joins_what_touches_and_splits_what_is_taken_out() {
        let mut set: AddressSet = ["10.0.1.0/24", "10.0.0.0/24", "fd7a::/64"]
            .map(block)
            .into_iter()
            .collect();
        assert_eq!(set.ranges().len(), 2, "two neighbours are one range");

        set.remove(block("10.0.0.128/25"));

        assert!(set.contains(address("10.0.0.127")) && !set.contains(address("10.0.0.128")));
        assert!(set.contains(address("10.0.1.0")) && set.contains(address("fd7a::9")));
        assert!(set.overlaps(&block("10.0.0.0/16")) && !set.overlaps(&block("10.0.0.192/26")));
        set.insert(block("10.0.0.128/25"));
        assert_eq!(set.ranges().len(), 2);
        set.remove(Prefix::ALL_V6);
        set.remove(Prefix::ALL_V4);
        assert!(set.is_empty());
    }

    #[test]
    fn the_two_families_never_touch() {
        let all: AddressSet = [Prefix::ALL_V4, Prefix::ALL_V6].into_iter().collect();
        let other: AddressSet = [Prefix::ALL_V6, Prefix::ALL_V4].into_iter().collect();

        assert_eq!(all.ranges().len(), 2);
        assert_eq!(all, other);
        assert!(all.contains(address("255.255.255.255")) && all.contains(address("::")));
    }
}
