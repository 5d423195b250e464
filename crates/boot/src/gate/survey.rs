//! A look at all of a BMC that a boot uses, found anew: conversations of a boot begin with what earlier ones have found,
//! and a replay has to begin with nothing.

use std::sync::Arc;
use std::time::Instant;

use isobar_bmc::redfish;
use isobar_bmc::{Bmc as _, BmcError, Endpoint, ErrorClass, Mode, Recorder};
use serde_json::Value;

use super::{At, Turn, Verb, authority, leave};

impl Turn<'_> {
    /// The answer sheet of this BMC; none over IPMI. Reads alone.
    ///
    /// # Errors
    /// Of the BMC.
    pub(crate) async fn sheet(self) -> Result<Option<Value>, BmcError> {
        let gate = self.gate;
        let learnt = gate.connector.learnt();
        let look = |endpoint, options| async move { redfish::sheet(endpoint, options, learnt).await };
        self.anew("answer sheet", look).await
    }

    /// Reads alone, over Redfish.
    ///
    /// # Errors
    /// Of the BMC.
    pub(crate) async fn survey(self, recorder: Arc<dyn Recorder>) -> Result<(), BmcError> {
        let look = |endpoint, options| async move {
            let mut bmc = redfish::connect(endpoint, recorder, options).await?;
            // Each for itself: a BMC that has failed has parts that do not answer.
            let (probe, media, power, host) = (
                bmc.probe().await.map(drop),
                bmc.media().await.map(drop),
                bmc.power_state().await.map(drop),
                bmc.host().await.map(drop),
            );
            bmc.close().await;
            probe.and(media).and(power).and(host)
        };
        self.anew("survey", look).await.map(drop)
    }

    /// A conversation in shadow mode that knows nothing of earlier ones; none where there is no Redfish, or no time left.
    async fn anew<T, F: Future<Output = Result<T, BmcError>>>(
        self,
        what: &'static str,
        look: impl FnOnce(Endpoint, redfish::Options) -> F,
    ) -> Result<Option<T>, BmcError> {
        let gate = self.gate;
        if let Some(held) = gate.bmcs.refusal(self.endpoint) {
            return Err(held);
        }
        let mut endpoint = gate.pins.apply(self.endpoint).await?;
        if endpoint.mode == Mode::Ipmi {
            return Ok(None);
        }
        endpoint.shadow = true;
        let (within, longest) = (gate.timing.exchange(), Verb::Host.longest(&gate.timing));
        let until = Instant::now() + longest;
        self.ticket.at(At::Talking(what, until));
        let (key, entry) = (authority(&endpoint), gate.enter(&endpoint, longest));
        if let Some(old) = gate.conversations.take(&key) {
            self.log_out(old.bmc).await;
        }
        let options = redfish::Options {
            call_deadline: within,
            end: Some(Instant::now() + within),
            addresses: gate.connector.addresses(),
            ..redfish::Options::default()
        };
        let looked = tokio::time::timeout(within, look(endpoint, options)).await;
        let failed = match &looked {
            Ok(looked) => looked.as_ref().err().map(|error| error.class),
            Err(_) => Some(ErrorClass::Timeout),
        };
        if failed == Some(ErrorClass::Auth) {
            self.hold().await;
        }
        self.ended(&key, failed, until, longest);
        leave(self.endpoint, entry);
        looked.map_or(Ok(None), |looked| looked.map(Some))
    }
}
