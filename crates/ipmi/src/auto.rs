//! A BMC by its faces: Redfish first, else IPMI; or IPMI, and Redfish for what that has not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use isobar_bmc::{
    Bmc, BmcError, BootTarget, Certificate, Endpoint, ErrorClass, HostState, Media, Mode, Part, PowerAction,
    PowerState, Probe, Recorder,
    redfish::{self, Faces, Learnt},
};

use crate::bmc::{self, Ipmi, Options};

/// Whether a BMC that answered so over Redfish may have IPMI only. A wrong login is not tried a second time: BMCs count.
#[must_use]
pub fn may_be_ipmi_only(error: &BmcError) -> bool {
    match error.class {
        ErrorClass::Unreachable => true,
        // Who points elsewhere is no BMC without Redfish, and is to be told by its name.
        ErrorClass::Protocol => error.status.is_none_or(|status| !(300..400).contains(&status)),
        // No service root at all.
        ErrorClass::Unsupported => error.status == Some(404),
        _ => false,
    }
}

/// What IPMI knows itself.
fn is_of_ipmi(part: Part) -> bool {
    matches!(part, Part::EventLog | Part::Sensors | Part::Fru)
}

/// A conversation over IPMI with a BMC whose Redfish could not be used: what IPMI cannot do fails for Redfish's reason.
struct Instead {
    ipmi: Ipmi,
    redfish: BmcError,
}

async fn instead(
    redfish: BmcError,
    endpoint: &Endpoint,
    recorder: Arc<dyn Recorder>,
    options: Options,
    learnt: &Learnt,
) -> Result<Instead, BmcError> {
    let bmc = endpoint.name();
    let known = learnt.faces(&bmc);
    if known.ipmi_refuses {
        return Err(redfish);
    }
    match bmc::connect(endpoint, recorder, options).await {
        Ok(ipmi) => Ok(Instead { ipmi, redfish }),
        // A right login that IPMI is closed to: Redfish is away for a moment, and nobody has mistyped a password.
        Err(error) if error.class == ErrorClass::Auth && known.redfish => {
            let ipmi_refuses = true;
            learnt.set_faces(&bmc, Faces { ipmi_refuses, ..known });
            Err(redfish)
        }
        // What is there and refuses says more than what is not there.
        Err(error) if matches!(error.class, ErrorClass::Unreachable | ErrorClass::Unsupported) => Err(redfish),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Bmc for Instead {
    async fn probe(&mut self) -> Result<Probe, BmcError> {
        self.ipmi.probe().await
    }

    async fn media(&mut self) -> Result<Media, BmcError> {
        Err(self.redfish.clone())
    }

    async fn eject(&mut self) -> Result<(), BmcError> {
        Err(self.redfish.clone())
    }

    async fn insert_one_of(&mut self, _: &[String]) -> Result<Media, BmcError> {
        Err(self.redfish.clone())
    }

    async fn boot_once(&mut self, target: BootTarget) -> Result<(), BmcError> {
        self.ipmi.boot_once(target).await
    }

    async fn boot_http_once(&mut self, _: &str) -> Result<(), BmcError> {
        Err(self.redfish.clone())
    }

    async fn boot_always(&mut self, target: BootTarget) -> Result<(), BmcError> {
        self.ipmi.boot_always(target).await
    }

    async fn identify(&mut self, seconds: u8) -> Result<bool, BmcError> {
        self.ipmi.identify(seconds).await
    }

    async fn inventory(&mut self, part: Part) -> Result<serde_json::Value, BmcError> {
        match is_of_ipmi(part) {
            true => self.ipmi.inventory(part).await,
            false => Err(self.redfish.clone()),
        }
    }

    async fn clear_event_log(&mut self) -> Result<(), BmcError> {
        self.ipmi.clear_event_log().await
    }

    async fn host(&mut self) -> Result<HostState, BmcError> {
        self.ipmi.host().await
    }

    async fn reset_bmc(&mut self) -> Result<(), BmcError> {
        self.ipmi.reset_bmc().await
    }

    async fn clear_boot_override(&mut self) -> Result<(), BmcError> {
        self.ipmi.clear_boot_override().await
    }

    async fn power_state(&mut self) -> Result<PowerState, BmcError> {
        self.ipmi.power_state().await
    }

    async fn power(&mut self, action: PowerAction) -> Result<(), BmcError> {
        self.ipmi.power(action).await
    }

    fn certificate(&self) -> Option<Certificate> {
        None
    }

    async fn close(&mut self) {
        self.ipmi.close().await;
    }
}

/// A conversation of an endpoint, as its mode says. What is limited by `redfish` and `ipmi` is each face's own.
///
/// # Errors
/// As [`redfish::connect`] and [`bmc::connect`].
pub async fn connect(
    endpoint: &Endpoint,
    recorder: Arc<dyn Recorder>,
    redfish: redfish::Options,
    ipmi: Options,
) -> Result<Box<dyn Bmc>, BmcError> {
    if endpoint.mode == Mode::Ipmi {
        return Ok(Box::new(Split {
            endpoint: endpoint.clone(),
            recorder,
            redfish_options: redfish,
            ipmi_options: ipmi,
            redfish: None,
            ipmi: None,
            kept: false,
        }));
    }
    let learnt = Arc::clone(&redfish.learnt);
    match redfish::connect(endpoint.clone(), Arc::clone(&recorder), redfish).await {
        Ok(redfish) => {
            let known = learnt.faces(&endpoint.name());
            if !known.redfish {
                learnt.set_faces(&endpoint.name(), Faces { redfish: true, ..known });
            }
            Ok(Box::new(redfish))
        }
        Err(error) if endpoint.mode == Mode::Auto && may_be_ipmi_only(&error) => {
            Ok(Box::new(instead(error, endpoint, recorder, ipmi, &learnt).await?))
        }
        Err(error) => Err(error),
    }
}

/// Power and boot flags over IPMI, and what IPMI has not over Redfish; each is opened when it is first needed.
struct Split {
    endpoint: Endpoint,
    recorder: Arc<dyn Recorder>,
    redfish_options: redfish::Options,
    ipmi_options: Options,
    redfish: Option<redfish::Redfish>,
    ipmi: Option<Ipmi>,
    /// The session over IPMI was kept from an exchange before this one: the BMC may have forgotten it.
    kept: bool,
}

impl Split {
    async fn ipmi(&mut self) -> Result<&mut Ipmi, BmcError> {
        let mut known = self.ipmi.take();
        if std::mem::take(&mut self.kept)
            && let Some(ipmi) = &mut known
            && !ipmi
                .go_on(&self.endpoint, Arc::clone(&self.recorder), self.ipmi_options.end)
                .await
        {
            // Nobody is there to be told that it ends.
            known = None;
        }
        let ipmi = match known {
            Some(ipmi) => ipmi,
            None => bmc::connect(&self.endpoint, Arc::clone(&self.recorder), self.ipmi_options.clone()).await?,
        };
        Ok(self.ipmi.insert(ipmi))
    }

    async fn redfish(&mut self) -> Result<&mut redfish::Redfish, BmcError> {
        let redfish = match self.redfish.take() {
            Some(redfish) => redfish,
            None => {
                let options = self.redfish_options.clone();
                redfish::connect(self.endpoint.clone(), Arc::clone(&self.recorder), options).await?
            }
        };
        Ok(self.redfish.insert(redfish))
    }
}

#[async_trait]
impl Bmc for Split {
    async fn probe(&mut self) -> Result<Probe, BmcError> {
        self.ipmi().await?.probe().await
    }

    async fn media(&mut self) -> Result<Media, BmcError> {
        self.redfish().await?.media().await
    }

    async fn eject(&mut self) -> Result<(), BmcError> {
        self.redfish().await?.eject().await
    }

    async fn insert_one_of(&mut self, urls: &[String]) -> Result<Media, BmcError> {
        self.redfish().await?.insert_one_of(urls).await
    }

    async fn boot_once(&mut self, target: BootTarget) -> Result<(), BmcError> {
        self.ipmi().await?.boot_once(target).await
    }

    async fn boot_http_once(&mut self, url: &str) -> Result<(), BmcError> {
        self.redfish().await?.boot_http_once(url).await
    }

    async fn clear_sessions(&mut self) -> Result<u32, BmcError> {
        self.redfish().await?.clear_sessions().await
    }

    async fn boot_always(&mut self, target: BootTarget) -> Result<(), BmcError> {
        self.ipmi().await?.boot_always(target).await
    }

    async fn identify(&mut self, seconds: u8) -> Result<bool, BmcError> {
        self.ipmi().await?.identify(seconds).await
    }

    async fn inventory(&mut self, part: Part) -> Result<serde_json::Value, BmcError> {
        match is_of_ipmi(part) {
            true => self.ipmi().await?.inventory(part).await,
            false => self.redfish().await?.inventory(part).await,
        }
    }

    async fn resources(&mut self, uris: &[String]) -> Result<Vec<(String, Option<serde_json::Value>)>, BmcError> {
        self.redfish().await?.resources(uris).await
    }

    async fn clear_event_log(&mut self) -> Result<(), BmcError> {
        self.ipmi().await?.clear_event_log().await
    }

    async fn host(&mut self) -> Result<HostState, BmcError> {
        self.ipmi().await?.host().await
    }

    async fn reset_bmc(&mut self) -> Result<(), BmcError> {
        self.ipmi().await?.reset_bmc().await
    }

    async fn clear_boot_override(&mut self) -> Result<(), BmcError> {
        self.ipmi().await?.clear_boot_override().await
    }

    async fn clear_http_boot(&mut self) -> Result<(), BmcError> {
        self.redfish().await?.clear_http_boot().await
    }

    async fn power_state(&mut self) -> Result<PowerState, BmcError> {
        self.ipmi().await?.power_state().await
    }

    async fn power(&mut self, action: PowerAction) -> Result<(), BmcError> {
        self.ipmi().await?.power(action).await
    }

    fn certificate(&self) -> Option<Certificate> {
        self.redfish.as_ref().and_then(Bmc::certificate)
    }

    async fn rest(&mut self) -> bool {
        if let Some(mut ipmi) = self.ipmi.take_if(|ipmi| !ipmi.rests()) {
            ipmi.close().await;
        }
        let redfish = match &mut self.redfish {
            Some(redfish) => redfish.rest().await,
            None => false,
        };
        if !redfish && let Some(mut redfish) = self.redfish.take() {
            redfish.close().await;
        }
        redfish || self.ipmi.is_some()
    }

    fn go_on(&mut self, endpoint: &Endpoint, recorder: Arc<dyn Recorder>, within: Duration) {
        let end = Instant::now() + within;
        self.endpoint = endpoint.clone();
        self.recorder = Arc::clone(&recorder);
        self.kept = self.ipmi.is_some();
        (self.ipmi_options.log_in, self.ipmi_options.end) = (within, end);
        (self.redfish_options.call_deadline, self.redfish_options.end) = (within, Some(end));
        if let Some(redfish) = &mut self.redfish {
            redfish.go_on(endpoint, recorder, within);
        }
    }

    async fn close(&mut self) {
        if let Some(redfish) = &mut self.redfish {
            redfish.close().await;
        }
        if let Some(mut ipmi) = self.ipmi.take() {
            ipmi.close().await;
        }
    }
}
