//! What a completion says it belongs to: operation, slot and generation in the 64 bits of `user_data`.

use crate::ConnId;

/// An operation that can be under way. The values are bits, so that a set of them is an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Receive = 1 << 0,
    Send = 1 << 1,
    Connect = 1 << 2,
    /// Watches for the peer's end where a multishot receive can miss it.
    Hangup = 1 << 3,
    Close = 1 << 4,
    Accept = 1 << 5,
    Wake = 1 << 6,
}

impl Kind {
    pub(super) const CANCELLABLE: [Kind; 4] = [Kind::Receive, Kind::Send, Kind::Connect, Kind::Hangup];

    fn from_bit(bit: u8) -> Option<Kind> {
        use Kind::*;
        [Receive, Send, Connect, Hangup, Close, Accept, Wake].into_iter().find(|kind| *kind as u8 == bit)
    }
}

/// Bit of the operation octet that marks the cancelling of that operation.
const CANCEL: u8 = 1 << 7;

/// Slots that a token can name.
pub(super) const SLOTS_MAX: usize = 1 << 24;

/// An operation of one generation of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// True for the completion of the request to cancel it, not of the operation itself.
    pub(super) cancel: bool,
    /// The connection; for a listener its id and generation zero.
    pub(super) id: ConnId,
}

impl Token {
    pub(super) fn new(kind: Kind, id: ConnId) -> Token {
        debug_assert!(id.index() < SLOTS_MAX);
        Token { kind, cancel: false, id }
    }

    pub(super) fn cancelling(self) -> Token {
        Token { cancel: true, ..self }
    }

    pub(super) fn encode(self) -> u64 {
        let op = self.kind as u8 | if self.cancel { CANCEL } else { 0 };
        u64::from(op) | (self.id.index() as u64) << 8 | u64::from(self.id.generation()) << 32
    }

    pub(super) fn decode(user_data: u64) -> Option<Token> {
        let op = user_data as u8;
        let index = (user_data >> 8) as u32 & (SLOTS_MAX as u32 - 1);
        let id = ConnId::new(index, (user_data >> 32) as u32);
        Some(Token { kind: Kind::from_bit(op & !CANCEL)?, cancel: op & CANCEL != 0, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_way_through_the_kernel() {
        for kind in [Kind::Receive, Kind::Hangup, Kind::Close, Kind::Wake] {
            let token = Token::new(kind, ConnId::new(SLOTS_MAX as u32 - 1, u32::MAX));
            assert_eq!(Token::decode(token.encode()), Some(token));
            assert_eq!(Token::decode(token.cancelling().encode()), Some(token.cancelling()));
        }
        assert_eq!(Token::decode(0), None);
    }
}
