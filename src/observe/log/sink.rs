//! The file or stream that an output writes to.

use std::io::{self, Write};

/// A destination for writing that may be reopened by name.
pub(super) struct Sink {
    open: Box<dyn Write + Send>,
    opener: Option<Opener>,
}

type Opener = Box<dyn Fn() -> io::Result<Box<dyn Write + Send>> + Send>;

impl Sink {
    /// Creates a sink that cannot be reopened.
    pub(super) fn of(open: impl Write + Send + 'static) -> Self {
        Self { open: Box::new(open), opener: None }
    }

    /// Creates a sink that `opener` opens now and each time it is reopened.
    ///
    /// # Errors
    /// The errors of `opener`.
    pub(super) fn opened_by(
        opener: impl Fn() -> io::Result<Box<dyn Write + Send>> + Send + 'static,
    ) -> io::Result<Self> {
        Ok(Self { open: opener()?, opener: Some(Box::new(opener)) })
    }

    /// Reopens the sink, and returns whether it can be reopened.
    ///
    /// # Errors
    /// The errors of the opener; the sink is then unchanged.
    pub(super) fn reopen(&mut self) -> io::Result<bool> {
        let Some(opener) = &self.opener else { return Ok(false) };
        self.open = opener()?;
        Ok(true)
    }

    /// Writes some bytes, like [`Write::write`].
    ///
    /// # Errors
    /// The errors of the sink.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open.write(bytes)
    }
}
