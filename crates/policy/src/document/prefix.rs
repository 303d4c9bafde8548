//! A block of addresses: `192.168.1.0/24`, or one address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that share their first bits. The bits after them are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == self.address
    }

    /// The first address of the block.
    pub fn first(&self) -> IpAddr {
        self.address
    }

    /// Whether it holds every address of its family.
    pub fn is_everything(&self) -> bool {
        self.bits == 0
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

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, ParsePrefixError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ParsePrefixError::Syntax)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => whole,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|bits| *bits <= whole)
                .ok_or(ParsePrefixError::Syntax)?,
            Some(_) => return Err(ParsePrefixError::Syntax),
        };
        let prefix = Self {
            address: masked(address, bits),
            bits,
        };
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParsePrefixError {
    /// Neither an address nor `ADDRESS/BITS`.
    Syntax,
    /// Bits are set after the prefix; this is the block it lies in.
    HostBits(Prefix),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_what_shares_its_bits() {
        let block: Prefix = "10.20.0.0/16".parse().expect("a block");

        assert!(block.contains(IpAddr::from([10, 20, 255, 1])));
        assert!(!block.contains(IpAddr::from([10, 21, 0, 1])));
        assert!(!block.contains("fd7a::1".parse().expect("an address")));
        assert!(
            "::/0"
                .parse::<Prefix>()
                .expect("all")
                .contains("fd7a::1".parse().expect("one"))
        );
        assert_eq!(
            "10.20.1.0/16".parse::<Prefix>(),
            Err(ParsePrefixError::HostBits(block))
        );
        assert_eq!(
            "10.20.0.0/33".parse::<Prefix>(),
            Err(ParsePrefixError::Syntax)
        );
        assert_eq!(
            "10.20.0.0/+16".parse::<Prefix>(),
            Err(ParsePrefixError::Syntax)
        );
    }
}
