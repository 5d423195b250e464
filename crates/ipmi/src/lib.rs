//! IPMI over RMCP+ (Intelligent Platform Management Interface 2.0, revision 1.1): power, the next boot, event log,
//! sensors, inventory and the serial console of machines whose BMC has no Redfish, or beside it.
//!
//! [`session`] speaks for a console. The codec ([`wire`], [`crypto`], [`rakp`], [`sol`]) knows neither sockets nor
//! clocks and is the simulated BMC's as well. Section numbers are those of the specification.

pub mod auto;
pub mod bmc;
pub mod chassis;
pub mod completion;
pub mod crypto;
pub mod device;
pub mod fru;
pub mod presence;
pub mod rakp;
pub mod sdr;
pub mod sel;
pub mod session;
pub mod sol;
pub mod wire;

pub use bmc::{Ipmi, Options, connect};
pub use session::Session;
