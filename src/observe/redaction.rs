//! Values that are never printed, and are zeroed when dropped.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret, such as a PIN or a secret access key. `Debug` does not show it, and dropping it zeroes
/// it.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value, for the code that has to use it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{:?}` of a settings struct must not show a PIN.
    #[test]
    fn debug_says_nothing() {
        assert_eq!(format!("{:?}", Secret::new("1234".to_owned())), "[redacted]");
    }
}
