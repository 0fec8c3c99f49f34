//! The first bytes of a connection, before any frame.
//!
//! The dialler speaks first. Its first flight is constant but for random bytes, so nobody's content can make it a
//! command of another protocol, and its first byte begins no HTTP method, so the same port serves HTTP too. The answer
//! has the same form. Only then do both sides send [`Message::Hello`](crate::Message), which names the swarm.
//!
//! ```text
//! 0  8   magic  F5 's' 'h' 'o' 'a' 'l' 0D 0A
//! 8  1   version that the sender speaks (1)
//! 9  1   connection mode: 0 plain (others are for encryption to come)
//! 10 6   zero
//! 16 16  random
//! ```

use crate::error::WireError;

/// First bytes of every connection between peers.
pub const MAGIC: [u8; 8] = *b"\xf5shoal\r\n";
/// The version of the wire that this crate speaks.
pub const VERSION: u8 = 1;
/// Length of the first flight and of its answer.
pub const GREETING_BYTES: usize = 32;
/// Feature bits that this crate understands and may be required to have.
pub const FEATURES_KNOWN: u64 = 0;

/// First flight, or the answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Random bytes, so that later modes can bind keys to the connection.
    pub random: [u8; 16],
}

impl Greeting {
    /// The bytes to send.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; GREETING_BYTES] {
        let mut out = [0; GREETING_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8] = VERSION;
        out[16..].copy_from_slice(&self.random);
        out
    }

    /// Reads the other side's greeting.
    ///
    /// # Errors
    /// When it isn't Shoal, or another version or mode.
    pub fn from_bytes(bytes: &[u8; GREETING_BYTES]) -> Result<Self, WireError> {
        if bytes[..8] != MAGIC {
            return Err(WireError::NotShoal);
        }
        if bytes[8] != VERSION {
            return Err(WireError::Version { ours: VERSION, theirs: bytes[8] });
        }
        if bytes[9] != 0 {
            return Err(WireError::Mode(bytes[9]));
        }
        if bytes[10..16] != [0; 6] {
            return Err(WireError::NotShoal);
        }
        let mut random = [0; 16];
        random.copy_from_slice(&bytes[16..]);
        Ok(Self { random })
    }
}

/// Feature bits of a peer: the upper half must be understood by the other side, the lower half may be ignored.
#[must_use]
pub fn missing_features(theirs: u64) -> u64 {
    theirs >> 32 << 32 & !FEATURES_KNOWN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_survives_and_each_changed_byte_of_its_head_is_refused() {
        let good = Greeting { random: [9; 16] }.to_bytes();
        assert_eq!(Greeting::from_bytes(&good), Ok(Greeting { random: [9; 16] }));
        for at in 0..16 {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert!(Greeting::from_bytes(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_first_byte_begins_no_http_method() {
        assert!(!MAGIC[0].is_ascii());
    }

    #[test]
    fn only_required_features_can_be_missing() {
        assert_eq!(missing_features(0xffff_ffff), 0);
        assert_eq!(missing_features(1 << 40 | 1), 1 << 40);
    }
}
