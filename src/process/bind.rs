//! The listening sockets: inherited, or opened here.

use std::net::TcpListener;

use super::inherited::{self, Given};
use super::upgrade::Sockets;
use crate::admin::Admin;
use crate::exit::{EXIT_SETTINGS, Failed};
use crate::server::Server;
use crate::settings::{self, Settings};

/// Bound listeners that nothing accepts from yet.
pub(super) struct Bound {
    pub(super) server: Server,
    pub(super) admin: Option<Admin>,
    /// The same sockets, for a process that takes over.
    pub(super) sockets: Sockets,
    /// Number of sockets that were handed over to this process.
    pub(super) inherited: usize,
}

impl Bound {
    /// Binds all listeners of the settings, to the `given` sockets where they fit.
    ///
    /// # Errors
    /// A given socket fits no listener, or an address cannot be bound.
    pub(super) fn new(settings: &Settings, given: Vec<Given>) -> Result<Self, Failed> {
        let inherited = given.len();
        let assigned = inherited::assign(given, settings)
            .map_err(|findings| Failed::new(EXIT_SETTINGS, findings.join("\n")))?;
        let config = settings.server_config();
        let mut server = Server::bind_with(&config, assigned.server).map_err(|error| {
            let message = format!("[server] cannot listen on {}: {}", error.address, error.error);
            Failed::unavailable(message)
        })?;
        let admin = match &settings.admin {
            Some(settings) => Some(bind_admin(settings, assigned.admin)?),
            None => None,
        };
        let sockets = Sockets::of(&mut server, admin.as_ref())
            .map_err(|error| Failed::unavailable(format!("[admin]: {error}")))?;
        Ok(Self { server, admin, sockets, inherited })
    }
}

fn bind_admin(settings: &settings::Admin, given: Option<TcpListener>) -> Result<Admin, Failed> {
    Admin::bind(settings, given).map_err(|error| {
        let message = format!("[admin] cannot listen on {}: {error}", settings.address);
        Failed::unavailable(message)
    })
}
