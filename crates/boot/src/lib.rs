//! Booting machines: rendering, the boot saga, evidence from reads, what is owed to BMCs.
//!
//! Layer: decides. It uses objects, images and BMCs, and speaks HTTP to nobody: users come through the
//! API, machines through the file plane, which asks [`attempts`] and tells [`reads`].

pub mod actions;
pub mod address;
mod agent_protocol;
pub mod agents;
pub mod attempts;
pub mod bases;
pub mod bmcs;
mod breaker;
mod chance;
mod clock;
mod collect;
mod consoles;
mod conversations;
pub mod doctor;
pub mod evidence;
pub mod gate;
mod hook;
mod inventory;
mod kernel_args;
pub mod ledger;
mod lights;
mod line;
pub mod operations;
pub mod pins;
mod post_mortem;
mod profiles;
pub mod reads;
pub mod reason;
pub mod record;
pub mod render;
pub mod rolling;
mod saga;
pub mod scan;
mod service;
pub mod settings;
mod shadow;
mod state;
pub mod timing;
#[cfg(test)]
mod traces;
mod turns;
mod verdict;
pub mod view;
mod walk;

pub use address::ServerAddr;
pub use consoles::{Console, Key};
pub use gate::{Connector, NetworkConnector};
pub use operations::OperationView;
pub use rolling::RollingOrder;
pub use service::Booter;
pub use shadow::Shadowed;
pub use state::BootOptions;
pub use timing::Timing;
pub use view::BootView;
