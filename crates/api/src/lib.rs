//! The REST face of Isobar, on TLS: Digital Rebar Provision's routes below `/api/v3`, and our own below
//! `/isobar/v1` for agents, boots, discs and bases.
//!
//! Open first: [`routes`] (the route table, and the one place where a request is authenticated and
//! authorised), [`server`] (the accept loop), [`boots`] (what is asked of the booting side).
//!
//! No handler holds a lock or owns a connection to a BMC. A change runs as a task of its own: a client that
//! hangs up cancels nothing.

pub mod boots;
pub mod plugins;
pub mod routes;
pub mod server;
pub mod tls;

mod auth;
mod call;
mod image_body;
mod lanes;
mod live;
mod reply;
mod stall;
mod state;
mod websocket;

pub use boots::Boots;
pub use plugins::Plugins;
pub use server::{Handle, Limits, Server};
pub use state::{AppState, Logs, ServerInfo};
pub use tls::{TlsError, TlsIdentity};
