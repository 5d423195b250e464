//! The IPMI face: RMCP+ (IPMI 2.0) on UDP, over the same machine, boot override and console as Redfish.

mod command;
mod console;
mod inventory;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use isobar_ipmi::crypto::{Keys, Suite, USUAL};
use isobar_ipmi::rakp::{self, OpenRequest, OpenResponse, Rakp1, Rakp2, Rakp34, Transcript, status};
use isobar_ipmi::session::Seen;
use isobar_ipmi::wire::{self, Malformed, Packet, Plus, Request, payload};
use tokio::net::UdpSocket;
use tokio::sync::broadcast;

use self::console::Sol;
use self::inventory::Event;
use crate::bmc::Bmc;

/// Sessions, those that are being set up among them.
const SESSIONS_MAX: usize = 16;
/// A session that is not used ends (§6.12.15).
const IDLE: Duration = Duration::from_secs(60);
/// A session that is not set up by then is forgotten.
const HALF_OPEN: Duration = Duration::from_secs(10);
/// How long boot flags hold without a reset, unless that is switched off (§28.13, parameter 3).
const FLAGS: Duration = Duration::from_secs(60);
/// Looks at what is due.
const TICK: Duration = Duration::from_millis(100);
const EVENTS_MAX: usize = 64;

struct Session {
    id: u32,
    peer: SocketAddr,
    known: Transcript,
    /// None while it is being set up.
    keys: Option<Keys>,
    privilege: u8,
    sent: u32,
    seen: Seen,
    used: Instant,
    /// Number and command of the last request, and its answer: a request that comes again is not done again.
    last: Option<(u8, u8, Vec<u8>)>,
}

/// The face. One task has all of it.
pub(crate) struct Face {
    bmc: Arc<Bmc>,
    socket: UdpSocket,
    port: u16,
    sessions: Vec<Session>,
    sol: Option<Sol>,
    said: broadcast::Receiver<Vec<u8>>,
    /// The last boot flags that were set here, what they mean for Redfish, and until when they hold.
    flags: Option<command::Flags>,
    keep_flags: bool,
    events: VecDeque<Event>,
    next_event: u16,
    identify: Option<Instant>,
    /// A session whose console was taken away and that has not been told.
    over: Option<u32>,
}

impl Face {
    pub(crate) fn new(bmc: Arc<Bmc>, socket: UdpSocket, port: u16) -> Self {
        let said = bmc.console.listen();
        Self {
            bmc,
            socket,
            port,
            sessions: Vec::new(),
            sol: None,
            said,
            flags: None,
            keep_flags: false,
            events: VecDeque::new(),
            next_event: 1,
            identify: None,
            over: None,
        }
    }

    /// Answers until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut buffer = [0; wire::MAX_PACKET];
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    // An error is of an answer to somebody who is gone.
                    let Ok((count, peer)) = received else { continue };
                    // What is not for a BMC is not answered.
                    if let Ok(Some(answer)) = self.hear(&buffer[..count], peer).await {
                        self.send(&answer, peer).await;
                    }
                }
                said = self.said.recv() => {
                    match said {
                        Ok(text) => if let Some(sol) = &mut self.sol { sol.print(&text); },
                        Err(broadcast::error::RecvError::Lagged(_)) => if let Some(sol) = &mut self.sol { sol.lost(); },
                        Err(broadcast::error::RecvError::Closed) => return,
                    }
                    self.talk().await;
                }
                _ = tick.tick() => {
                    self.forget();
                    self.talk().await;
                }
            }
        }
    }

    async fn send(&self, packet: &[u8], peer: SocketAddr) {
        // Who is gone does not hear it.
        let _ = self.socket.send_to(packet, peer).await;
    }

    fn forget(&mut self) {
        let now = Instant::now();
        self.sessions.retain(|session| {
            let most = if session.keys.is_some() { IDLE } else { HALF_OPEN };
            now.duration_since(session.used) < most
        });
        let sessions = &self.sessions;
        if self
            .sol
            .as_ref()
            .is_some_and(|sol| sessions.iter().all(|s| s.id != sol.session))
        {
            self.sol = None;
        }
        self.expire_flags(now);
    }

    async fn hear(&mut self, bytes: &[u8], peer: SocketAddr) -> Result<Option<Vec<u8>>, Malformed> {
        match wire::parse(bytes)? {
            Packet::Plain { payload } => {
                let request = Request::parse(payload)?;
                let (code, data) = self.before_session(&request);
                Ok(Some(wire::plain(&request.answer(code, &data))))
            }
            Packet::Plus(packet) if packet.session == 0 => self.set_up(&packet, peer),
            Packet::Plus(packet) => self.in_session(&packet, peer).await,
        }
    }

    fn set_up(&mut self, packet: &Plus<'_>, peer: SocketAddr) -> Result<Option<Vec<u8>>, Malformed> {
        let (kind, body) = match packet.kind {
            // Before a session both formats are in use.
            payload::IPMI => {
                let request = Request::parse(packet.payload)?;
                let (code, data) = self.before_session(&request);
                (payload::IPMI, request.answer(code, &data))
            }
            payload::OPEN_REQUEST => {
                let request = OpenRequest::parse(packet.payload)?;
                (payload::OPEN_RESPONSE, self.open(&request, peer).encode())
            }
            payload::RAKP1 => (
                payload::RAKP2,
                self.first(&Rakp1::parse(packet.payload)?, peer).encode(),
            ),
            payload::RAKP3 => (
                payload::RAKP4,
                self.third(&Rakp34::parse(packet.payload)?, peer).encode(),
            ),
            _ => return Err(Malformed),
        };
        Ok(Some(wire::set_up(kind, &body)))
    }

    fn open(&mut self, request: &OpenRequest, peer: SocketAddr) -> OpenResponse {
        let refuse = |status| OpenResponse {
            tag: request.tag,
            status,
            privilege: 0,
            console: request.console,
            bmc: 0,
            algorithms: [0; 3],
        };
        let suite = Suite::by_algorithms(request.algorithms).filter(|suite| self.suites().contains(&suite.id));
        let Some(suite) = suite else {
            return refuse(status::NO_SUITE);
        };
        if self.sessions.len() >= SESSIONS_MAX {
            return refuse(status::NO_RESOURCES);
        }
        let id = loop {
            let id = rand::random::<u32>();
            if id != 0 && self.sessions.iter().all(|s| s.id != id) {
                break id;
            }
        };
        self.sessions.push(Session {
            id,
            peer,
            known: Transcript {
                suite,
                console: request.console,
                bmc: id,
                console_random: [0; 16],
                bmc_random: rand::random::<u128>().to_le_bytes(),
                guid: *self.bmc.config.uuid.as_bytes(),
                role: 0,
                user: Vec::new(),
            },
            keys: None,
            // A session begins with the rights of a user (§6.11.7).
            privilege: 2,
            sent: 0,
            seen: Seen::default(),
            used: Instant::now(),
            last: None,
        });
        OpenResponse {
            tag: request.tag,
            status: status::OK,
            privilege: rakp::ADMINISTRATOR,
            console: request.console,
            bmc: id,
            algorithms: request.algorithms,
        }
    }

    /// Numbers of the cipher suites on offer.
    fn suites(&self) -> Vec<u8> {
        match self.bmc.config.ipmi_suites.as_slice() {
            [] => USUAL.iter().map(|suite| suite.id).collect(),
            own => own.to_vec(),
        }
    }

    fn half_open(&mut self, id: u32, peer: SocketAddr) -> Option<&mut Session> {
        let session = self.sessions.iter_mut().find(|s| s.id == id && s.peer == peer);
        session.filter(|s| s.keys.is_none())
    }

    fn first(&mut self, message: &Rakp1, peer: SocketAddr) -> Rakp2 {
        let (user, password) = (self.bmc.config.user.clone(), self.bmc.config.password.clone());
        let mut answer = Rakp2 {
            tag: message.tag,
            status: status::NO_SESSION,
            console: 0,
            random: [0; 16],
            guid: [0; 16],
            code: Vec::new(),
        };
        let Some(session) = self.half_open(message.bmc, peer) else {
            return answer;
        };
        answer.console = session.known.console;
        if message.user != user.as_bytes() {
            answer.status = status::NO_NAME;
            return answer;
        }
        let known = &mut session.known;
        known.console_random = message.random;
        known.role = message.role;
        known.user.clone_from(&message.user);
        answer.status = status::OK;
        answer.random = known.bmc_random;
        answer.guid = known.guid;
        answer.code = known.code2(password.as_bytes());
        answer
    }

    fn third(&mut self, message: &Rakp34, peer: SocketAddr) -> Rakp34 {
        let password = self.bmc.config.password.clone();
        let mut answer = Rakp34 {
            tag: message.tag,
            status: status::NO_SESSION,
            session: 0,
            code: Vec::new(),
        };
        // A message 3 that comes again, as its answer was lost, gets the same one.
        let found = self
            .sessions
            .iter_mut()
            .find(|s| s.id == message.session && s.peer == peer);
        let Some(session) = found.filter(|s| !s.known.user.is_empty() && s.sent == 0) else {
            return answer;
        };
        answer.session = session.known.console;
        if message.status != status::OK || !session.known.holds3(password.as_bytes(), &message.code) {
            answer.status = status::WRONG_CODE;
            self.sessions.retain(|s| s.id != message.session);
            return answer;
        }
        let sik = session.known.sik(password.as_bytes());
        if session.keys.is_none() {
            self.bmc.ipmi_logins.fetch_add(1, Ordering::Relaxed);
        }
        session.keys = Some(session.known.keys(&sik));
        session.used = Instant::now();
        answer.status = status::OK;
        answer.code = session.known.code4(&sik);
        answer
    }

    async fn in_session(&mut self, packet: &Plus<'_>, peer: SocketAddr) -> Result<Option<Vec<u8>>, Malformed> {
        let session = self
            .sessions
            .iter_mut()
            .find(|s| s.id == packet.session)
            .ok_or(Malformed)?;
        let body = session.keys.as_ref().ok_or(Malformed)?.open(packet)?;
        if !session.seen.is_new(packet.sequence) {
            return Err(Malformed);
        }
        (session.used, session.peer) = (Instant::now(), peer);
        let id = session.id;
        match packet.kind {
            payload::IPMI => {
                let request = Request::parse(&body)?;
                let asked = (request.number, request.command);
                let again = session
                    .last
                    .as_ref()
                    .filter(|(number, command, _)| (*number, *command) == asked);
                let answer = match again {
                    Some((.., answer)) => answer.clone(),
                    None => {
                        let (code, data) = self.obey(id, &request);
                        request.answer(code, &data)
                    }
                };
                let sealed = self.seal(id, payload::IPMI, &answer);
                if let Some(session) = self.sessions.iter_mut().find(|s| s.id == id) {
                    session.last = Some((asked.0, asked.1, answer));
                }
                self.sessions.retain(|s| s.privilege != command::CLOSED);
                Ok(sealed)
            }
            payload::SOL => {
                self.hear_console(id, &body).await;
                Ok(None)
            }
            _ => Err(Malformed),
        }
    }

    fn seal(&mut self, id: u32, kind: u8, body: &[u8]) -> Option<Vec<u8>> {
        let session = self.sessions.iter_mut().find(|s| s.id == id)?;
        session.sent = session.sent.checked_add(1).unwrap_or(1);
        let iv = rand::random::<u128>().to_le_bytes();
        let keys = session.keys.as_ref()?;
        Some(keys.seal(kind, session.known.console, session.sent, body, iv))
    }
}
