//! Sets of a fleet's tokens.

use crate::job::TokenIndex;
use crate::limits::MAX_TOKENS;

/// A set of tokens, represented by one bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenSet(u16);

const _: () = assert!(MAX_TOKENS <= u16::BITS as usize);

impl TokenSet {
    /// The set without any token.
    pub const EMPTY: Self = Self(0);

    /// Returns the set of one token.
    #[must_use]
    pub const fn of(token: TokenIndex) -> Self {
        Self(1 << (token.0 % 16))
    }

    /// Returns whether the token is in the set.
    #[must_use]
    pub const fn contains(self, token: TokenIndex) -> bool {
        self.0 & Self::of(token).0 != 0
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds a token.
    pub const fn insert(&mut self, token: TokenIndex) {
        self.0 |= Self::of(token).0;
    }

    /// Removes a token.
    pub const fn remove(&mut self, token: TokenIndex) {
        self.0 &= !Self::of(token).0;
    }

    /// Returns the tokens that are in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the tokens that are in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the tokens that are in this set and not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl FromIterator<TokenIndex> for TokenSet {
    fn from_iter<T: IntoIterator<Item = TokenIndex>>(tokens: T) -> Self {
        let mut set = Self::EMPTY;
        tokens.into_iter().for_each(|token| set.insert(token));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each token has a separate bit.
    #[test]
    fn tokens_of_a_full_fleet() {
        let tokens = || (0..16).map(TokenIndex);
        let mut set = TokenSet::EMPTY;
        for token in tokens() {
            assert!(!set.contains(token));
            set.insert(token);
            assert!(set.contains(token));
        }
        assert_eq!(set, tokens().collect());
        let odd: TokenSet = tokens().filter(|token| token.0 % 2 == 1).collect();
        let even = set.difference(odd);
        assert!(even.contains(TokenIndex(0)) && !even.contains(TokenIndex(15)));
        assert!(even.intersection(odd).is_empty());
        assert_eq!(even.union(odd), set);
        set.remove(TokenIndex(7));
        assert!(!set.contains(TokenIndex(7)) && set.contains(TokenIndex(6)));
    }
}
