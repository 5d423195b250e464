//! HTTP towards one BMC: login, headers, deadlines, retries, ETags, records.

mod failure;
mod login;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::discover::Wanted;
use super::learnt::Known;
use super::message::{self, Message};
use super::slots::Slot;
use super::{Options, json, tls};
use crate::record::Redactor;
use crate::{BmcError, Certificate, Endpoint, ErrorClass, Exchange, Recorder, TlsTrust, address};
use failure::{Failure, chain};

/// Parts of one collection, after the first, that systems, managers or slots are looked for in.
const PARTS: usize = 16;
/// Longest answer that is read. The largest resources of real BMCs have a few hundred KB.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;
/// Redirects within the same authority (`/redfish/v1` to `/redfish/v1/`) followed for a GET.
const REDIRECTS: usize = 3;
/// Before a resource that could not be read is read again.
const BROKEN_PAUSE: Duration = Duration::from_secs(2);
/// ActionInfos that are kept: of insert and reset.
const INFOS: usize = 8;
/// For so long nobody else is thought to have put anything into a virtual CD that we have emptied.
const JUST_NOW: Duration = Duration::from_secs(10);
/// For so long a system is taken for what it was.
const MOMENT: Duration = Duration::from_secs(2);
pub(crate) const ROOT: &str = "/redfish/v1/";

/// A collection's body, and its members.
pub(crate) type Listing = (Value, Vec<String>);

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) messages: Vec<Message>,
    pub(crate) etag: Option<String>,
    pub(crate) location: Option<String>,
    /// Methods that the resource takes, if the BMC says.
    pub(crate) allow: Option<String>,
    retry_after: Option<Duration>,
    token: Option<String>,
    /// Where it came from.
    from: Option<IpAddr>,
}

impl Reply {
    /// Whether it was done. A 200 with a critical message is a refusal, too.
    pub(crate) fn is_good(&self) -> bool {
        (200..300).contains(&self.status) && !(self.status == 200 && self.messages.iter().any(|m| m.critical))
    }
}

enum Login {
    /// Before the first request that needs one.
    Not,
    Token {
        token: HeaderValue,
        session: Option<String>,
    },
    Basic,
    /// Refused once: never sent again in this conversation.
    Wrong(BmcError),
}

pub(crate) struct Transport {
    client: reqwest::Client,
    endpoint: Endpoint,
    pub(crate) name: String,
    pub(crate) options: Options,
    recorder: Arc<dyn Recorder>,
    addresses: Vec<IpAddr>,
    /// Whether the recorder has been told which of the addresses answers.
    told: bool,
    pub(crate) redactor: Redactor,
    shown: tls::Shown,
    login: Login,
    /// Where to log in, best first.
    sessions: Vec<String>,
    session_oem: Option<&'static str>,
    /// How often this conversation has logged in. After the first time the BMC may be another one: it was restarted.
    pub(crate) logins: u32,
    /// What need not be asked again, and whether it was all there when the conversation began.
    known: Known,
    learnt_more: bool,
    /// The slots that take our CD, and when this conversation has emptied them.
    emptied: Option<(Instant, Vec<Slot>)>,
    /// The system as it was read last, while this conversation has changed nothing about it.
    system: Option<(String, Instant, Reply)>,
    /// Collections that were read and are about to be read again: once more they are what they were.
    listed: Vec<(String, Instant, Listing)>,
    /// A resource that is linked and could not be read in this call: it may be the one that is missed later.
    broken: Option<String>,
    /// End of the call of the `Bmc` trait that is under way, and its name.
    deadline: Instant,
    what: &'static str,
}

impl Transport {
    /// Resolves and checks the address; sends nothing yet.
    pub(crate) async fn open(
        endpoint: Endpoint,
        recorder: Arc<dyn Recorder>,
        options: Options,
    ) -> Result<Self, BmcError> {
        const WHAT: &str = "connect";
        let name = endpoint.name();
        let fail = |class, text: String| BmcError::new(class, WHAT, format!("BMC {name}: {text}"));
        let (tls, shown) = tls::config(&endpoint.tls).map_err(|err| {
            let text = match err {
                rustls::Error::General(text) => text,
                other => other.to_string(),
            };
            fail(ErrorClass::Tls, text).hinted("set isobar/bmc-ca to certificates of the CA, as PEM")
        })?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            // Firmware that compares header names letter by letter is out there.
            .http1_title_case_headers()
            .pool_max_idle_per_host(1)
            .connect_timeout(options.connect_timeout);
        let port = endpoint.url.port_or_known_default().unwrap_or(443);
        let addresses = address::resolve(&endpoint, port, &options.addresses, options.connect_timeout).await?;
        if let Some(url::Host::Domain(domain)) = endpoint.url.host() {
            builder = builder.resolve_to_addrs(domain, &addresses);
        }
        let client = builder.build().map_err(|err| fail(ErrorClass::Tls, chain(&err)))?;
        let mut redactor = Redactor::default();
        redactor.hide_login(&endpoint.username, endpoint.password.reveal());
        let deadline = call_end(&options);
        Ok(Self {
            client,
            endpoint,
            name,
            options,
            recorder,
            addresses: addresses.iter().map(|address| address.ip().to_canonical()).collect(),
            redactor,
            shown,
            login: Login::Not,
            told: false,
            sessions: Vec::new(),
            session_oem: None,
            logins: 0,
            known: Known::default(),
            learnt_more: false,
            emptied: None,
            system: None,
            listed: Vec::new(),
            broken: None,
            deadline,
            what: WHAT,
        })
    }

    /// Another exchange begins, in the conversation that there is. Whether it is about another of the BMC's systems:
    /// then nothing that was found for the one before is true of it.
    pub(crate) fn go_on(&mut self, endpoint: &Endpoint, recorder: Arc<dyn Recorder>, within: Duration) -> bool {
        let before = self.key();
        if let TlsTrust::Pinned(fingerprint) = &endpoint.tls {
            self.shown.pin(fingerprint);
        }
        self.endpoint = endpoint.clone();
        self.recorder = recorder;
        self.told = false;
        self.options.call_deadline = within;
        self.options.end = Some(Instant::now() + within);
        let other = before != self.key();
        if other {
            self.set_known(Known::default());
            (self.emptied, self.system) = (None, None);
        }
        other
    }

    /// Whether another exchange may follow: there is a login, and the BMC has not turned it down.
    pub(crate) fn is_logged_in(&self) -> bool {
        matches!(self.login, Login::Token { .. } | Login::Basic)
    }

    /// The BMC and the system that is meant, by which what was found is kept.
    pub(crate) fn key(&self) -> String {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let (system, machine) = (part(&self.endpoint.system), part(&self.endpoint.machine_uuid));
        format!("{} {system} {machine}", self.name)
    }

    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    /// Takes over what an earlier conversation has found.
    pub(crate) fn set_known(&mut self, known: Known) {
        (self.known, self.learnt_more) = (known, false);
    }

    /// Whether something was learnt since this was asked last.
    pub(crate) fn learnt_more(&mut self) -> bool {
        std::mem::take(&mut self.learnt_more)
    }

    pub(crate) fn known_slots(&self) -> &[Slot] {
        &self.known.slots
    }

    pub(crate) fn set_slots(&mut self, slots: Vec<Slot>) {
        self.learnt_more |= self.known.slots != slots;
        self.known.slots = slots;
    }

    /// The parameters that an ActionInfo lists; the firmware's, so they are read once.
    pub(crate) async fn parameters(&mut self, uri: &str) -> Result<Vec<Value>, BmcError> {
        if let Some((_, parameters)) = self.known.infos.iter().find(|(known, _)| known == uri) {
            return Ok(parameters.clone());
        }
        let Some(mut info) = self.get_if_there(uri).await? else {
            return Ok(Vec::new());
        };
        let parameters = match info.body.get_mut("Parameters").map(Value::take) {
            Some(Value::Array(parameters)) => parameters,
            _ => Vec::new(),
        };
        if self.known.infos.len() < INFOS {
            self.known.infos.push((uri.to_owned(), parameters.clone()));
            self.learnt_more = true;
        }
        Ok(parameters)
    }

    /// This conversation has emptied these slots.
    pub(crate) fn set_emptied(&mut self, slots: Vec<Slot>) {
        self.emptied = Some((Instant::now(), slots));
    }

    /// The slots, where this conversation has emptied them just now and nothing was inserted since.
    pub(crate) fn take_emptied(&mut self) -> Option<Vec<Slot>> {
        let (since, slots) = self.emptied.take()?;
        (since.elapsed() < JUST_NOW).then_some(slots)
    }

    /// The system as it was a moment ago, for what is decided by it and then checked.
    pub(crate) fn recent_system(&self, uri: &str) -> Option<Reply> {
        let (known, since, reply) = self.system.as_ref()?;
        (json::same_uri(known, uri) && since.elapsed() < MOMENT).then(|| reply.clone())
    }

    fn follow_system(&mut self, uri: &str, reply: &Reply) {
        if reply.is_good() && !json::at(&reply.body, &["Actions", "#ComputerSystem.Reset"]).is_null() {
            self.system = Some((uri.to_owned(), Instant::now(), reply.clone()));
        }
    }

    /// A new call begins, with a deadline of its own.
    pub(crate) fn begin(&mut self, what: &'static str) {
        self.what = what;
        self.deadline = call_end(&self.options);
        self.broken = None;
    }

    /// Something is not there; or it could not be read, where something broke in this call.
    pub(crate) fn missing(&mut self, text: impl std::fmt::Display) -> BmcError {
        match self.broken.take() {
            Some(broken) => self.error(ErrorClass::Failing, format!("{text}; {broken}")),
            None => self.error(ErrorClass::Unsupported, text),
        }
    }

    pub(crate) fn wanted_system(&self) -> Wanted<'_> {
        Wanted {
            named: self.endpoint.system.as_deref(),
            machine: self.endpoint.machine_uuid.as_deref(),
        }
    }

    /// The certificate that the BMC showed.
    pub(crate) fn certificate(&self) -> Option<Certificate> {
        self.shown.get()
    }

    /// Where to log in, and what the vendor wants in it.
    pub(crate) fn set_sessions(&mut self, mut uris: Vec<String>, oem: Option<&'static str>) {
        uris.dedup_by(|a, b| json::same_uri(a, b));
        self.sessions = uris;
        self.session_oem = oem;
    }

    pub(crate) fn error(&self, class: ErrorClass, text: impl std::fmt::Display) -> BmcError {
        let text = self.redactor.text(&text.to_string());
        BmcError::new(class, self.what, format!("BMC {}: {text}", self.name))
    }

    /// What an answer that is not good means.
    pub(crate) fn refusal(&self, method: &str, uri: &str, reply: &Reply) -> BmcError {
        let class = match reply.status {
            401 => ErrorClass::Auth,
            403 => ErrorClass::Forbidden,
            _ if message::is_licence(&reply.messages) => ErrorClass::Forbidden,
            404 | 405 | 410 | 501 => ErrorClass::Unsupported,
            _ if message::passes(reply.status, &reply.messages).is_some() => ErrorClass::Busy,
            409 => ErrorClass::Busy,
            500.. => ErrorClass::Failing,
            300..=399 => ErrorClass::Protocol,
            _ => ErrorClass::Refused,
        };
        let words = message::words(&reply.messages, &reply.body);
        let status = StatusCode::from_u16(reply.status)
            .ok()
            .and_then(|s| s.canonical_reason())
            .unwrap_or_default();
        let said = if words.is_empty() {
            String::new()
        } else {
            format!(": {words}")
        };
        let mut error = self.error(
            class,
            format!("{method} {uri} was answered {} {status}{said}", reply.status),
        );
        error.status = Some(reply.status);
        let telling = reply.messages.iter().find(|m| m.critical).or(reply.messages.first());
        error.message_id = telling.map(|m| m.id.clone()).filter(|id| !id.is_empty());
        match telling.and_then(|m| m.resolution.as_deref()) {
            Some(resolution) if class == ErrorClass::Refused => {
                error.hint = format!("the BMC says: {}", self.redactor.text(resolution));
            }
            _ if class == ErrorClass::Protocol => {
                error.hint =
                    "it redirects to another place, which is not followed: set ipmi/address to that place".into();
            }
            _ => {}
        }
        error
    }

    /// GET; an answer that is not good is an error.
    pub(crate) async fn get(&mut self, uri: &str) -> Result<Reply, BmcError> {
        let reply = self.request(Method::GET, uri, None, None).await?;
        if reply.is_good() {
            Ok(reply)
        } else {
            Err(self.refusal("GET", uri, &reply))
        }
    }

    /// GET of something that may be missing, or linked and missing.
    pub(crate) async fn get_if_there(&mut self, uri: &str) -> Result<Option<Reply>, BmcError> {
        let reply = self.request(Method::GET, uri, None, None).await?;
        match reply.status {
            _ if reply.is_good() => Ok(Some(reply)),
            // Half-built firmware links to resources that it does not have or breaks on.
            404 | 405 | 410 | 501 => Ok(None),
            500 => {
                let words = message::words(&reply.messages, &reply.body);
                self.broken = Some(format!("GET {uri} was answered 500 {words}").trim_end().to_owned());
                Ok(None)
            }
            _ => Err(self.refusal("GET", uri, &reply)),
        }
    }

    /// A collection, and its members, which may come in parts (DSP0266, paging). Not there: none.
    pub(crate) async fn collection(&mut self, uri: &str) -> Result<Option<Listing>, BmcError> {
        if let Some(at) = self.listed.iter().position(|(known, ..)| json::same_uri(known, uri)) {
            let (_, since, listing) = self.listed.swap_remove(at);
            if since.elapsed() < MOMENT {
                return Ok(Some(listing));
            }
        }
        let Some(Reply { body, .. }) = self.get_if_there(uri).await? else {
            return Ok(None);
        };
        let (mut members, mut next) = (json::members(&body), json::link(&body, &[json::NEXT]));
        for _ in 0..PARTS {
            let Some(uri) = next.take() else { break };
            let Some(part) = self.get_if_there(&uri).await? else {
                break;
            };
            let known = members.len();
            for member in json::members(&part.body) {
                if !members.contains(&member) {
                    members.push(member);
                }
            }
            // One that brings nothing new may name itself as the next.
            next = json::link(&part.body, &[json::NEXT]).filter(|_| members.len() > known);
        }
        Ok(Some((body, members)))
    }

    /// What this collection was just now, for who asks next.
    pub(crate) fn keep_listing(&mut self, uri: String, listing: Listing) {
        self.listed.push((uri, Instant::now(), listing));
    }

    /// POST; any answer but "not now" comes back.
    pub(crate) async fn post(&mut self, uri: &str, body: Option<&Value>) -> Result<Reply, BmcError> {
        self.request(Method::POST, uri, body, None).await
    }

    /// PATCH under the entity tag that `etag` is, or the BMC asks for.
    pub(crate) async fn patch(&mut self, uri: &str, body: &Value, etag: Option<&str>) -> Result<Reply, BmcError> {
        let mut etag = etag.map(str::to_owned);
        let mut reply = self.request(Method::PATCH, uri, Some(body), etag.as_deref()).await?;
        // As the BMC wrote it, without quotes, any: firmware differs in which one it compares with.
        let mut forms = [false, true].into_iter();
        while matches!(reply.status, 412 | 428) {
            let form = match forms.next() {
                Some(bare) => {
                    etag = self.get(uri).await?.etag;
                    match &etag {
                        Some(tag) if bare => tag.trim_start_matches("W/").trim_matches('"').to_owned(),
                        Some(tag) => tag.clone(),
                        None => "*".to_owned(),
                    }
                }
                None if etag.as_deref() == Some("*") => break,
                None => {
                    etag = Some("*".to_owned());
                    "*".to_owned()
                }
            };
            reply = self.request(Method::PATCH, uri, Some(body), Some(&form)).await?;
        }
        Ok(reply)
    }

    /// One request with everything that may be repeated: after a new login, after "not now", after a
    /// lost connection where that is harmless.
    async fn request(
        &mut self,
        method: Method,
        uri: &str,
        body: Option<&Value>,
        if_match: Option<&str>,
    ) -> Result<Reply, BmcError> {
        let mut uri = self.local(uri)?;
        if matches!(self.login, Login::Not) && !json::same_uri(&uri, ROOT) {
            self.log_in().await?;
        }
        let (mut logged_in_again, mut identity, mut lost, mut broken, mut waits, mut redirects) =
            (false, true, 0, 0, 0, 0);
        let safe = method == Method::GET;
        let mut said = None;
        loop {
            let reply = match self.send(method.clone(), &uri, body, if_match, identity).await {
                Ok(reply) => reply,
                Err(err) if safe && err.class == ErrorClass::Timeout && lost < 1 && err.message.contains("closed") => {
                    lost += 1;
                    self.wait(Duration::from_secs(1)).await?;
                    continue;
                }
                // The time ran out over "not now" or a failure: that says more than the silence at its end.
                Err(err) if err.class == ErrorClass::Timeout && self.is_over() => return said.ok_or(err),
                Err(err) => return Err(err),
            };
            if reply.status == 401 {
                match self.login {
                    Login::Token { .. } if !logged_in_again => {
                        tracing::debug!(bmc = %self.name, "the session is gone: logging in again");
                        logged_in_again = true;
                        self.log_in().await?;
                        continue;
                    }
                    Login::Token { .. } => return Err(self.lost_session(&method, &uri)),
                    Login::Basic => return Err(self.wrong_login(method.as_str(), &uri, &reply)),
                    _ => return Ok(reply),
                }
            }
            if reply.status == 406 && identity {
                identity = false;
                continue;
            }
            if safe && (301..=308).contains(&reply.status) && redirects < REDIRECTS {
                if let Some(next) = reply.location.as_deref().and_then(|l| self.local(l).ok()) {
                    redirects += 1;
                    uri = next;
                    continue;
                }
                return Ok(reply);
            }
            if let Some(passing) = (!reply.is_good())
                .then(|| message::passes(reply.status, &reply.messages))
                .flatten()
            {
                waits += 1;
                if waits > passing.tries {
                    return Ok(reply);
                }
                let pause = reply.retry_after.unwrap_or(passing.wait).min(self.options.longest_wait);
                if Instant::now() + pause >= self.deadline {
                    return Ok(reply);
                }
                tracing::debug!(bmc = %self.name, status = reply.status, ?pause, "the BMC is busy");
                tokio::time::sleep(pause).await;
                said = Some(reply);
                continue;
            }
            let pause = BROKEN_PAUSE.min(self.options.longest_wait);
            if safe && matches!(reply.status, 500 | 502 | 504) && broken < 2 && Instant::now() + pause < self.deadline {
                broken += 1;
                tokio::time::sleep(pause).await;
                said = Some(reply);
                continue;
            }
            return Ok(reply);
        }
    }

    /// Of the call that is under way.
    pub(crate) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    pub(crate) fn recorder(&self) -> &dyn Recorder {
        self.recorder.as_ref()
    }

    /// Waits, inside the call's deadline.
    pub(crate) async fn wait(&self, pause: Duration) -> Result<(), BmcError> {
        if Instant::now() + pause >= self.deadline {
            return Err(self.error(ErrorClass::Timeout, "not done inside the deadline"));
        }
        tokio::time::sleep(pause).await;
        // It may have taken longer than it was to.
        match self.is_over() {
            true => Err(self.error(ErrorClass::Timeout, "not done inside the deadline")),
            false => Ok(()),
        }
    }

    /// Path and query of a URI that lies on this BMC. A link to another authority is refused: nothing
    /// of a login must go there, and nobody checked that address.
    fn local(&self, uri: &str) -> Result<String, BmcError> {
        let base = &self.endpoint.url;
        match base.join(uri) {
            Ok(url)
                if url.scheme() == base.scheme()
                    && url.host() == base.host()
                    && url.port_or_known_default() == base.port_or_known_default() =>
            {
                Ok(url[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
            }
            _ => Err(self
                .error(
                    ErrorClass::Protocol,
                    format!("it links to another place, which is refused: {uri}"),
                )
                .hinted("set ipmi/address to the address (and scheme and port) that the BMC uses in its links")),
        }
    }

    async fn send(
        &mut self,
        method: Method,
        uri: &str,
        body: Option<&Value>,
        if_match: Option<&str>,
        identity: bool,
    ) -> Result<Reply, BmcError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.error(ErrorClass::Timeout, "not done inside the deadline"));
        }
        // A change may take as long as the whole call: some BMCs copy an image before they answer its insert.
        let limit = match method {
            Method::GET => left.min(self.options.request_timeout),
            _ => left,
        };
        let url = self
            .endpoint
            .url
            .join(uri)
            .map_err(|err| self.error(ErrorClass::Protocol, err))?;
        let mut request = self.client.request(method.clone(), url).timeout(limit);
        request = request
            .header("OData-Version", "4.0")
            .header(header::ACCEPT, "application/json");
        if identity {
            // Compression would make the ETags weak.
            request = request.header(header::ACCEPT_ENCODING, "identity");
        }
        if let Some(tag) = if_match {
            request = request.header(header::IF_MATCH, tag);
        }
        if let Some(body) = body {
            request = request.json(body);
        } else if method == Method::POST {
            request = request.header(header::CONTENT_LENGTH, 0);
        }
        request = match &self.login {
            Login::Token { token, .. } => request.header("X-Auth-Token", token.clone()),
            Login::Basic => request.basic_auth(&self.endpoint.username, Some(self.endpoint.password.reveal())),
            Login::Not => request,
            Login::Wrong(err) => return Err(err.clone()),
        };
        let began = Instant::now();
        if method != Method::GET {
            // What is done to virtual media changes neither power nor boot order.
            self.system = self
                .system
                .take()
                .filter(|_| uri.to_ascii_lowercase().contains("/virtualmedia/"));
        }
        let result = match self.may_send(&method, uri) {
            true => self.receive(request).await,
            false => Err(Failure::Shadow),
        };
        let result = result.map_err(|failure| self.failure(failure, &method, uri, limit));
        let answer = result.as_ref().ok().map(|reply| (reply.status, &reply.body));
        if self.recorder.keeps(method.as_str(), answer.map(|(status, _)| status)) {
            let mut exchange = Exchange::new(method.as_str(), uri, body, answer, began.elapsed(), &self.redactor);
            match &result {
                Ok(reply) => {
                    exchange.location = reply.location.as_deref().map(|uri| self.redactor.text(uri));
                    exchange.retry_after_s = reply.retry_after.map(|pause| pause.as_secs());
                }
                Err(error) => exchange.error = Some(error.message.clone()),
            }
            self.recorder.record(exchange);
        }
        let reply = result?;
        self.tell_addresses(reply.from);
        if method == Method::GET {
            self.follow_system(uri, &reply);
        }
        tracing::debug!(bmc = %self.name, %method, uri = self.redactor.text(uri), status = reply.status, "exchange");
        Ok(reply)
    }

    /// In shadow mode nothing is sent but reads, the login, and the end of our own session.
    fn may_send(&self, method: &Method, uri: &str) -> bool {
        let logs_in = || *method == Method::POST && self.sessions.iter().any(|place| json::same_uri(place, uri));
        let logs_out = || *method == Method::DELETE && self.is_own_session(uri);
        !self.endpoint.shadow || *method == Method::GET || logs_in() || logs_out()
    }

    fn tell_addresses(&mut self, used: Option<IpAddr>) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let mut addresses = self.addresses.clone();
        if let Some(used) = used.map(|address| address.to_canonical()) {
            addresses.retain(|address| *address != used);
            addresses.insert(0, used);
        }
        self.recorder.connected(&addresses);
    }

    async fn receive(&self, request: reqwest::RequestBuilder) -> Result<Reply, Failure> {
        let mut response = request.send().await?;
        let status = response.status().as_u16();
        let from = response.remote_addr().map(|address| address.ip());
        let headers = std::mem::take(response.headers_mut());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if bytes.len() + chunk.len() > LONGEST_ANSWER {
                return Err(Failure::TooLong);
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = match json::lenient(&bytes) {
            Some(body) => body,
            // An error page of a web server is still an answer; a 200 that is no JSON is not Redfish.
            None if !(200..300).contains(&status) => {
                Value::String(String::from_utf8_lossy(&bytes).chars().take(500).collect())
            }
            None => return Err(Failure::NotJson(status)),
        };
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(Reply {
            status,
            messages: message::messages(&body),
            etag: text("etag").or_else(|| json::text(&body, &["@odata.etag"]).map(str::to_owned)),
            location: text("location"),
            allow: text("allow"),
            retry_after: retry_after(&headers),
            token: text("x-auth-token"),
            from,
            body,
        })
    }

    /// DELETE; any answer but "not now" comes back.
    pub(crate) async fn delete(&mut self, uri: &str) -> Result<Reply, BmcError> {
        self.request(Method::DELETE, uri, None, None).await
    }
}

/// When a call that begins now has ended.
fn call_end(options: &Options) -> Instant {
    let end = Instant::now() + options.call_deadline;
    options.end.map_or(end, |last| last.min(end))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}
