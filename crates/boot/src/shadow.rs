//! Shadow mode: everything is planned and read, and nothing that changes a BMC is sent.
//!
//! The last word has who speaks to the BMC ([`Endpoint::shadow`]), for boots, clean-ups and actions alike. A boot in
//! shadow mode is a rehearsal, see `saga::rehearse`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use isobar_bmc::redfish::Learnt;
use isobar_bmc::{AddressPolicy, Bmc, BmcError, Endpoint, Recorder};
use isobar_ipmi::sol::Console;

use crate::gate::Connector;

/// All BMCs in shadow mode, whatever the machines' params say.
pub struct Shadowed(pub Arc<dyn Connector>);

fn shadow(endpoint: &Endpoint) -> Endpoint {
    Endpoint {
        shadow: true,
        ..endpoint.clone()
    }
}

#[async_trait]
impl Connector for Shadowed {
    async fn connect(
        &self,
        endpoint: &Endpoint,
        recorder: Arc<dyn Recorder>,
        within: Duration,
    ) -> Result<Box<dyn Bmc>, BmcError> {
        self.0.connect(&shadow(endpoint), recorder, within).await
    }

    fn addresses(&self) -> AddressPolicy {
        self.0.addresses()
    }

    fn learnt(&self) -> Option<&Learnt> {
        self.0.learnt()
    }

    fn shadow(&self) -> bool {
        true
    }

    async fn console(&self, endpoint: &Endpoint, take_over: bool, within: Duration) -> Result<Console, BmcError> {
        self.0.console(&shadow(endpoint), take_over, within).await
    }
}
