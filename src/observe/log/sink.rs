//! The file or stream that an output writes to.

use std::io::{self, Write};

/// Something to write to, which may be opened by its name again.
pub(super) struct Sink {
    open: Box<dyn Write + Send>,
    opener: Option<Opener>,
}

type Opener = Box<dyn Fn() -> io::Result<Box<dyn Write + Send>> + Send>;

impl Sink {
    /// A sink that stays open.
    pub(super) fn of(open: impl Write + Send + 'static) -> Self {
        Self { open: Box::new(open), opener: None }
    }

    /// A sink that `opener` opens, now and each time that it is reopened.
    ///
    /// # Errors
    /// The opener's.
    pub(super) fn opened_by(
        opener: impl Fn() -> io::Result<Box<dyn Write + Send>> + Send + 'static,
    ) -> io::Result<Self> {
        Ok(Self { open: opener()?, opener: Some(Box::new(opener)) })
    }

    /// Opens the sink again, and returns whether it is one that can be.
    ///
    /// # Errors
    /// The opener's; the sink is unchanged.
    pub(super) fn reopen(&mut self) -> io::Result<bool> {
        let Some(opener) = &self.opener else { return Ok(false) };
        self.open = opener()?;
        Ok(true)
    }

    /// Writes some bytes, as [`Write::write`].
    ///
    /// # Errors
    /// The sink's.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open.write(bytes)
    }
}
