//! A session with a BMC, from the console's side.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use isobar_bmc::{BmcError, ErrorClass, Secret};
use tokio::net::UdpSocket;

use crate::completion;
use crate::crypto::{Keys, Suite};
use crate::rakp::{self, OpenRequest, OpenResponse, Rakp1, Rakp2, Rakp34, Transcript, status};
use crate::wire::{self, Malformed, Packet, Request, Response, payload};

/// First wait for an answer; each next one is longer.
const FIRST_WAIT: Duration = Duration::from_millis(750);
const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// Pause before a BMC that is busy is asked again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// A BMC that answers nothing at all is given up after this many packets.
const TRIES: u32 = 5;
/// What may be silent for another reason is asked so often.
const FEW_TRIES: u32 = 2;
/// A packet whose number is this much below the highest one is too old (IPMI 2.0 §6.12.13).
const WINDOW: u32 = 32;

/// Commands that change nothing but the session itself: network function and command.
const READS: &[(u8, u8)] = &[
    (0x00, 0x01),
    (0x00, 0x09),
    (0x04, 0x2d),
    (0x06, 0x01),
    (0x06, 0x37),
    (0x06, 0x3b),
    (0x06, 0x3c),
    (0x0a, 0x10),
    (0x0a, 0x11),
    (0x0a, 0x22),
    (0x0a, 0x23),
    (0x0a, 0x40),
    (0x0a, 0x42),
    (0x0a, 0x43),
    (0x0c, 0x02),
];

/// What a request is: network function, command, and whether it may be sent twice.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Network function.
    pub netfn: u8,
    /// Command.
    pub code: u8,
    /// What it does, for messages.
    pub what: &'static str,
    /// Doing it twice is as good as once; when not, it is sent once and a lost answer is an error.
    pub repeatable: bool,
}

impl Command {
    /// One that may be sent twice.
    #[must_use]
    pub const fn new(netfn: u8, code: u8, what: &'static str) -> Self {
        Self {
            netfn,
            code,
            what,
            repeatable: true,
        }
    }

    /// One that may not.
    #[must_use]
    pub const fn once(netfn: u8, code: u8, what: &'static str) -> Self {
        Self {
            repeatable: false,
            ..Self::new(netfn, code, what)
        }
    }
}

/// An error with what can be done about it where IPMI differs from Redfish.
fn error(class: ErrorClass, what: &'static str, name: &str, text: impl std::fmt::Display) -> BmcError {
    let error = BmcError::new(class, what, format!("BMC {name}: {text}"));
    match class {
        ErrorClass::Unreachable => error.hinted(
            "check ipmi/address and ipmi/port-ipmitool, that the BMC has IPMI over LAN enabled, and that UDP gets there",
        ),
        ErrorClass::Protocol => error.hinted("check that a BMC listens on ipmi/port-ipmitool"),
        ErrorClass::Forbidden => error.hinted("give the BMC user the administrator privilege for IPMI over LAN"),
        _ => error,
    }
}

/// Login and limits.
#[derive(Clone, Debug)]
pub struct Login {
    /// User.
    pub user: String,
    /// Password.
    pub password: Secret<String>,
    /// Suites that may be used, best first.
    pub suites: Vec<Suite>,
    /// Name of the BMC in messages.
    pub name: String,
}

/// An open session. Call [`Session::close`] at its end: BMCs have few.
pub struct Session {
    socket: UdpSocket,
    /// Shadow mode: what is not known to only read is not sent.
    reads_only: bool,
    name: String,
    keys: Keys,
    /// The console's number of the session: on what comes in.
    console: u32,
    /// The BMC's number of the session: on what goes out.
    bmc: u32,
    sent: u32,
    number: u8,
    seen: Seen,
    /// No request goes on after this time.
    end: Instant,
    /// What was asked and what came back since somebody looked, a line each.
    lines: VecDeque<String>,
}

/// Lines that are kept; sensors and event logs are hundreds of requests.
const LINES: usize = 24;
/// Bytes of an answer that are told.
const TOLD: usize = 24;

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("bmc", &self.name)
            .finish_non_exhaustive()
    }
}

/// Sequence numbers that have come, so that a packet is taken once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    highest: u32,
    /// Bit n: `highest - n` has come.
    mask: u32,
}

impl Seen {
    /// Whether this number is new; it is seen from now on.
    pub fn is_new(&mut self, number: u32) -> bool {
        if number == 0 {
            return false;
        }
        if number > self.highest {
            let step = number - self.highest;
            self.mask = self.mask.checked_shl(step).unwrap_or(0) | 1;
            self.highest = number;
            return true;
        }
        let back = self.highest - number;
        if back >= WINDOW || self.mask & (1 << back) != 0 {
            return false;
        }
        self.mask |= 1 << back;
        true
    }
}

/// What a packet of a session holds.
#[derive(Debug)]
pub(crate) enum Came {
    /// A message.
    Message(Vec<u8>),
    /// Serial over LAN.
    Sol(Vec<u8>),
}

/// Who talks before there is a session.
struct Greeter<'a> {
    socket: &'a UdpSocket,
    login: &'a Login,
    end: Instant,
}

fn fresh<const N: usize>() -> [u8; N] {
    rand::random::<u128>()
        .to_le_bytes()
        .first_chunk::<N>()
        .copied()
        .unwrap_or([0; N])
}

impl Greeter<'_> {
    fn error(&self, class: ErrorClass, text: impl std::fmt::Display) -> BmcError {
        error(class, "log in over IPMI", &self.login.name, text)
    }

    /// Sends until something comes that `take` knows.
    async fn ask<T>(
        &self,
        what: &str,
        tries: u32,
        packet: impl Fn() -> Vec<u8>,
        mut take: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<T, BmcError> {
        let mut buffer = [0; wire::MAX_PACKET];
        let mut wait = FIRST_WAIT;
        for _ in 0..tries {
            send(self.socket, &packet())
                .await
                .map_err(|e| self.error(ErrorClass::Unreachable, e))?;
            let until = (Instant::now() + wait).min(self.end);
            loop {
                match receive(self.socket, &mut buffer, until).await {
                    Ok(Some(count)) => {
                        if let Some(taken) = take(&buffer[..count]) {
                            return Ok(taken);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return Err(self.error(ErrorClass::Unreachable, refused(&error))),
                }
            }
            if Instant::now() >= self.end {
                break;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Err(self.error(ErrorClass::Unreachable, format!("no answer over IPMI to {what}")))
    }

    /// A message outside of a session; the data of a good answer.
    async fn message(&self, what: &str, tries: u32, netfn: u8, command: u8, data: &[u8]) -> Result<Vec<u8>, BmcError> {
        let number = fresh::<1>()[0] & 0x3f;
        let request = || wire::plain(&Request::new(netfn, command, number, data).encode());
        let (code, data) = self
            .ask(what, tries, request, |bytes| {
                let Ok(Packet::Plain { payload }) = wire::parse(bytes) else {
                    return None;
                };
                let response = Response::parse(payload).ok()?;
                let ours = (response.netfn, response.command, response.number) == (netfn, command, number);
                ours.then(|| (response.completion, response.data.to_vec()))
            })
            .await?;
        match code {
            0 => Ok(data),
            code => Err(self.error(ErrorClass::Protocol, format!("{what}: {}", completion::words(code)))),
        }
    }

    /// What it can (§22.13): RMCP+, and logins by name.
    async fn capabilities(&self) -> Result<(), BmcError> {
        let what = "Get Channel Authentication Capabilities";
        let data = self
            .message(what, TRIES, 0x06, 0x38, &[0x8e, rakp::ADMINISTRATOR])
            .await?;
        let extended = data.get(1).is_some_and(|types| types & 0x80 != 0);
        if !extended || data.get(3).is_none_or(|versions| versions & 0x02 == 0) {
            return Err(self
                .error(ErrorClass::Unsupported, "it speaks IPMI 1.5 only, without encryption")
                .hinted("update the BMC's firmware, or enable IPMI 2.0 (RMCP+) in it"));
        }
        Ok(())
    }

    /// Cipher suites that it lists (§22.15); none where it does not answer that.
    async fn listed(&self) -> Option<Vec<u8>> {
        let mut records = Vec::new();
        // 64 lists of 16 bytes are all there can be.
        for index in 0..64 {
            let data = [0x0e, payload::IPMI, 0x80 | index];
            let what = "Get Channel Cipher Suites";
            let answer = self.message(what, FEW_TRIES, 0x06, 0x54, &data).await.ok()?;
            let part = answer.get(1..).unwrap_or_default();
            records.extend(part);
            if part.len() < 16 {
                break;
            }
        }
        Some(suites_in(&records))
    }

    async fn open(&self, suite: Suite, console: u32, tries: u32) -> Result<Result<OpenResponse, u8>, BmcError> {
        let tag = fresh::<1>()[0];
        let request = OpenRequest {
            tag,
            privilege: 0,
            console,
            algorithms: suite.algorithms(),
        };
        let response = self
            .ask(
                "Open Session Request",
                tries,
                || wire::set_up(payload::OPEN_REQUEST, &request.encode()),
                |bytes| {
                    let response = OpenResponse::parse(set_up_payload(bytes, payload::OPEN_RESPONSE)?).ok()?;
                    (response.tag == tag && (response.status != status::OK || response.console == console))
                        .then_some(response)
                },
            )
            .await?;
        match response.status {
            // Some BMCs take what they like instead of saying no.
            status::OK if response.algorithms != suite.algorithms() => Ok(Err(status::NO_SUITE)),
            status::OK => Ok(Ok(response)),
            status::NO_AUTHENTICATION | status::NO_INTEGRITY | status::NO_CONFIDENTIALITY | status::NO_SUITE => {
                Ok(Err(response.status))
            }
            code => Err(self.refusal("a session", code)),
        }
    }

    fn refusal(&self, what: &str, code: u8) -> BmcError {
        let class = match code {
            status::NO_RESOURCES | 0x0b => ErrorClass::Busy,
            status::NO_NAME | status::WRONG_CODE | 0x0c => ErrorClass::Auth,
            status::NO_ROLE | 0x0a => ErrorClass::Forbidden,
            status::NO_SESSION | 0x08 => ErrorClass::Protocol,
            _ => ErrorClass::Refused,
        };
        self.error(class, format!("it refused {what}: {}", status::words(code)))
    }

    /// The session's suite and numbers, by the first suite that is taken. Which there are is asked only where a BMC is silent
    /// about one: that list is not signed either, and costs packets (and on some BMCs, which do not know it, seconds).
    async fn agree(&self) -> Result<(Suite, OpenResponse), BmcError> {
        let mut listed = None;
        let mut refused = None;
        for suite in &self.login.suites {
            let console = u32::from_le_bytes(fresh::<4>()).max(1);
            let tries = if listed.is_none() { FEW_TRIES } else { TRIES };
            let mut opened = self.open(*suite, console, tries).await;
            if opened
                .as_ref()
                .is_err_and(|error| error.class == ErrorClass::Unreachable)
                && listed.is_none()
            {
                let all = listed.insert(self.listed().await);
                if all.as_ref().is_none_or(|all| all.contains(&suite.id)) {
                    opened = self.open(*suite, console, TRIES).await;
                } else {
                    continue;
                }
            }
            match opened? {
                Ok(opened) => return Ok((*suite, opened)),
                Err(code) => refused = Some(status::words(code)),
            }
        }
        let offered = match listed {
            Some(listed) => listed,
            None => self.listed().await,
        };
        let words =
            |suites: &mut dyn Iterator<Item = u8>| suites.map(|id| id.to_string()).collect::<Vec<_>>().join(", ");
        let wanted = words(&mut self.login.suites.iter().map(|suite| suite.id));
        let has = match (offered, refused) {
            (Some(offered), _) => format!(": it offers {}", words(&mut offered.into_iter())),
            (None, Some(refused)) => format!(": {refused}"),
            (None, None) => String::new(),
        };
        let text = format!("it takes none of the cipher suites {wanted}{has}");
        Err(self
            .error(ErrorClass::Unsupported, text)
            .hinted("enable cipher suite 17 (or 3) in the BMC's IPMI settings"))
    }

    async fn exchange(&self, suite: Suite, opened: OpenResponse) -> Result<Transcript, BmcError> {
        let (user, password) = (self.login.user.as_bytes(), self.login.password.reveal().as_bytes());
        let mut known = Transcript {
            suite,
            console: opened.console,
            bmc: opened.bmc,
            console_random: fresh(),
            bmc_random: [0; 16],
            guid: [0; 16],
            role: rakp::ADMINISTRATOR | rakp::BY_NAME,
            user: user.to_vec(),
        };
        let tag = fresh::<1>()[0];
        let first = Rakp1 {
            tag,
            bmc: opened.bmc,
            random: known.console_random,
            role: known.role,
            user: known.user.clone(),
        };
        let second = self
            .ask(
                "RAKP message 1",
                TRIES,
                || wire::set_up(payload::RAKP1, &first.encode()),
                |bytes| {
                    let message = Rakp2::parse(set_up_payload(bytes, payload::RAKP2)?).ok()?;
                    (message.tag == tag && (message.status != status::OK || message.console == opened.console))
                        .then_some(message)
                },
            )
            .await?;
        if second.status != status::OK {
            return Err(self.refusal("the login", second.status));
        }
        (known.bmc_random, known.guid) = (second.random, second.guid);
        if !known.holds2(password, &second.code) {
            return Err(self.error(
                ErrorClass::Auth,
                "the password is not the one that the BMC has for this user",
            ));
        }
        Ok(known)
    }

    async fn prove(&self, known: &Transcript) -> Result<Keys, BmcError> {
        let password = self.login.password.reveal().as_bytes();
        let tag = fresh::<1>()[0];
        let third = Rakp34 {
            tag,
            status: status::OK,
            session: known.bmc,
            code: known.code3(password),
        };
        let fourth = self
            .ask(
                "RAKP message 3",
                TRIES,
                || wire::set_up(payload::RAKP3, &third.encode()),
                |bytes| {
                    let message = Rakp34::parse(set_up_payload(bytes, payload::RAKP4)?).ok()?;
                    (message.tag == tag && (message.status != status::OK || message.session == known.console))
                        .then_some(message)
                },
            )
            .await?;
        if fourth.status != status::OK {
            return Err(self.refusal("the login", fourth.status));
        }
        let sik = known.sik(password);
        if !known.holds4(&sik, &fourth.code) {
            return Err(self
                .error(ErrorClass::Auth, "the session's keys differ")
                .hinted("the BMC has a key of its own (Kg) beside the password: clear it, as this is not supported"));
        }
        Ok(known.keys(&sik))
    }
}

/// Suites in the records of Get Channel Cipher Suites (§22.15.1); those of vendors are left out.
pub fn suites_in(records: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    let mut rest = records;
    while let [start, after @ ..] = rest {
        rest = after;
        if let (0xc0, [id, after @ ..]) = (*start, after) {
            found.push(*id);
            rest = after;
        } else if *start == 0xc1 {
            rest = after.get(4..).unwrap_or_default();
        }
    }
    found
}

fn set_up_payload(bytes: &[u8], kind: u8) -> Option<&[u8]> {
    match wire::parse(bytes) {
        Ok(Packet::Plus(plus)) if plus.kind == kind && plus.session == 0 && !plus.encrypted => Some(plus.payload),
        _ => None,
    }
}

async fn send(socket: &UdpSocket, packet: &[u8]) -> Result<(), String> {
    match socket.send(packet).await {
        Ok(_) => Ok(()),
        Err(error) => Err(refused(&error)),
    }
}

fn refused(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "nothing listens on its IPMI port".to_owned(),
        _ => error.to_string(),
    }
}

/// The next packet; none at the deadline.
async fn receive(socket: &UdpSocket, buffer: &mut [u8], until: Instant) -> std::io::Result<Option<usize>> {
    match tokio::time::timeout_at(until.into(), socket.recv(buffer)).await {
        Ok(received) => received.map(Some),
        Err(_) => Ok(None),
    }
}

impl Session {
    /// From here on nothing is sent that may change the BMC.
    pub fn reads_only(&mut self) {
        self.reads_only = true;
    }

    /// Logs in. `within` is for this, [`Session::until`] for what comes after.
    ///
    /// # Errors
    /// No answer, no common cipher suite, wrong login, no room for another session.
    pub async fn open(address: SocketAddr, login: &Login, within: Duration) -> Result<Self, BmcError> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let fail = |text: String| error(ErrorClass::Unreachable, "log in over IPMI", &login.name, text);
        let socket = UdpSocket::bind(any).await.map_err(|e| fail(e.to_string()))?;
        // Packets of others than the BMC's address and port are not received.
        socket.connect(address).await.map_err(|e| fail(e.to_string()))?;
        let end = Instant::now() + within;
        let greeter = Greeter {
            socket: &socket,
            login,
            end,
        };
        // No refused login: nothing was sent, and over Redfish it may be right.
        let too_long = |what: &str| BmcError {
            hint: "use a login that IPMI can carry, or set ipmi/mode to redfish".to_owned(),
            ..greeter.error(ErrorClass::Unsupported, what)
        };
        if login.user.len() > rakp::USER_MAX {
            return Err(too_long("IPMI takes user names of 16 bytes at most"));
        }
        if login.password.reveal().len() > rakp::PASSWORD_MAX {
            return Err(too_long("IPMI takes passwords of 20 bytes at most"));
        }
        greeter.capabilities().await?;
        let (suite, opened) = greeter.agree().await?;
        let known = greeter.exchange(suite, opened).await?;
        let keys = greeter.prove(&known).await?;
        let mut session = Self {
            reads_only: false,
            socket,
            name: login.name.clone(),
            keys,
            console: known.console,
            bmc: known.bmc,
            sent: 0,
            number: 0,
            seen: Seen::default(),
            end,
            lines: VecDeque::new(),
        };
        // A session begins with the rights of a user (§6.11.7).
        let raise = Command::new(0x06, 0x3b, "raise the privilege");
        if let Err(error) = session.call(raise, &[rakp::ADMINISTRATOR]).await {
            session.close().await;
            let error = BmcError {
                class: ErrorClass::Forbidden,
                ..error
            };
            return Err(error.hinted("give the BMC user the administrator privilege for IPMI over LAN"));
        }
        Ok(session)
    }

    /// The suite that was agreed on.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.keys.suite()
    }

    /// Sets the end of what comes now.
    pub fn until(&mut self, end: Instant) {
        self.end = end;
    }

    pub(crate) fn error(&self, class: ErrorClass, what: &'static str, text: impl std::fmt::Display) -> BmcError {
        error(class, what, &self.name, text)
    }

    /// A request whose answer is good; its data.
    ///
    /// # Errors
    /// What the completion code means, no answer in time.
    pub async fn call(&mut self, command: Command, data: &[u8]) -> Result<Vec<u8>, BmcError> {
        loop {
            let (code, answer) = self.request(command, data).await?;
            match code {
                0 => return Ok(answer),
                completion::BUSY if Instant::now() + BUSY_PAUSE < self.end => tokio::time::sleep(BUSY_PAUSE).await,
                code => return Err(self.completed(command, code)),
            }
        }
    }

    /// The error that a completion code is.
    pub(crate) fn completed(&self, command: Command, code: u8) -> BmcError {
        let mut error = self.error(completion::class(code), command.what, completion::words(code));
        error.message_id = Some(format!("{code:02X}h"));
        error
    }

    /// What was asked and what came back since this was called last. There is nothing secret in it: the login is over
    /// before a session begins, and no command that is sent here sets one.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        self.lines.drain(..).collect()
    }

    /// A request; its completion code and data.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn request(&mut self, command: Command, data: &[u8]) -> Result<(u8, Vec<u8>), BmcError> {
        let answer = self.ask(command, data).await;
        let came = match &answer {
            Ok((code, answer)) => {
                let told: Vec<String> = answer.iter().take(TOLD).map(|byte| format!("{byte:02x}")).collect();
                let more = if answer.len() > TOLD { " …" } else { "" };
                format!("{code:02x}h {}{more}", told.join(" "))
            }
            Err(error) => error.message.clone(),
        };
        if self.lines.len() >= LINES {
            self.lines.pop_front();
        }
        let (netfn, code) = (command.netfn, command.code);
        let line = format!("{} ({netfn:02x}h {code:02x}h): {}", command.what, came.trim_end());
        self.lines.push_back(line);
        answer
    }

    async fn ask(&mut self, command: Command, data: &[u8]) -> Result<(u8, Vec<u8>), BmcError> {
        if self.reads_only && !READS.contains(&(command.netfn, command.code)) {
            let text = format!(
                "shadow mode: would {} ({:02X}h {:02X}h)",
                command.what, command.netfn, command.code
            );
            return Err(self.error(ErrorClass::Shadow, command.what, text));
        }
        self.number = (self.number + 1) & 0x3f;
        let number = self.number;
        let tries = if command.repeatable { TRIES } else { 1 };
        let mut wait = FIRST_WAIT;
        for attempt in 0..tries {
            let message = Request::new(command.netfn, command.code, number, data).encode();
            self.send(payload::IPMI, &message)
                .await
                .map_err(|e| self.error(ErrorClass::Unreachable, command.what, e))?;
            // What is sent once only is waited for as long as there is.
            let last = attempt + 1 == tries;
            let until = if last {
                self.end.min(Instant::now() + LONGEST_WAIT * 4)
            } else {
                (Instant::now() + wait).min(self.end)
            };
            while let Some(came) = self
                .next(until)
                .await
                .map_err(|e| self.error(ErrorClass::Unreachable, command.what, e))?
            {
                let Came::Message(bytes) = came else { continue };
                let Ok(response) = Response::parse(&bytes) else {
                    continue;
                };
                if (response.netfn, response.command, response.number) == (command.netfn, command.code, number) {
                    return Ok((response.completion, response.data.to_vec()));
                }
            }
            if Instant::now() >= self.end {
                break;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Err(self.error(ErrorClass::Timeout, command.what, "no answer over IPMI"))
    }

    pub(crate) async fn send(&mut self, kind: u8, body: &[u8]) -> Result<(), String> {
        // Numbers begin at 1, and 0 is none of them (§6.12.8).
        self.sent = self.sent.checked_add(1).unwrap_or(1);
        let packet = self.keys.seal(kind, self.bmc, self.sent, body, fresh());
        send(&self.socket, &packet).await
    }

    /// The next packet of this session; none at the deadline. Safe to be dropped while it waits.
    pub(crate) async fn next(&mut self, until: Instant) -> Result<Option<Came>, String> {
        let mut buffer = [0; wire::MAX_PACKET];
        loop {
            match receive(&self.socket, &mut buffer, until).await {
                Ok(Some(count)) => {
                    if let Ok(came) = self.take(&buffer[..count]) {
                        return Ok(Some(came));
                    }
                }
                Ok(None) => return Ok(None),
                Err(error) => return Err(refused(&error)),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<Came, Malformed> {
        let Packet::Plus(packet) = wire::parse(bytes)? else {
            return Err(Malformed);
        };
        if packet.session != self.console {
            return Err(Malformed);
        }
        let body = self.keys.open(&packet)?;
        // Only after the code: who forges packets must not move the window.
        if !self.seen.is_new(packet.sequence) {
            return Err(Malformed);
        }
        match packet.kind {
            payload::IPMI => Ok(Came::Message(body)),
            payload::SOL => Ok(Came::Sol(body)),
            _ => Err(Malformed),
        }
    }

    /// Closes the session (§22.19). Best effort.
    pub async fn close(&mut self) {
        self.end = Instant::now() + Duration::from_secs(2);
        let close = Command::once(0x06, 0x3c, "close the session");
        let id = self.bmc.to_le_bytes();
        // An error: it ends by itself, after a minute without packets (§6.12.15).
        let _ = self.request(close, &id).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_taken_once_and_not_when_it_is_old() {
        let mut seen = Seen::default();
        for (number, new) in [
            (0, false),
            (1, true),
            (1, false),
            (3, true),
            (2, true),
            (2, false),
            (40, true),
            (9, true),
            (8, false),
            (9, false),
            (1000, true),
            (999, true),
            (40, false),
        ] {
            assert_eq!(seen.is_new(number), new, "{number}");
        }
    }

    #[test]
    fn suites_are_read_from_their_records() {
        let records = [
            0xc0, 0x03, 0x01, 0x41, 0x81, 0xc1, 0x80, 0xf2, 0x1b, 0x00, 0x01, 0x41, 0x81, 0xc0, 0x11, 0x03, 0x44, 0x81,
        ];
        assert_eq!(suites_in(&records), [3, 17]);
        assert_eq!(suites_in(&[0xc0]), [] as [u8; 0]);
        assert_eq!(suites_in(&[0xc1, 1]), [] as [u8; 0]);
    }
}
