//! What the tests share: short limits, a recorder that remembers, and BMCs that answer by script.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isobar_bmc::redfish::{Options, Redfish, connect};
use isobar_bmc::{BmcError, Endpoint, Exchange, Recorder, Secret, TlsTrust};
use serde_json::Value;

pub const USER: &str = "admin";
pub const PASSWORD: &str = "p4ssw0rd-of-the-test";

#[derive(Debug, Default)]
pub struct Records(pub Mutex<Vec<Exchange>>);

impl Recorder for Records {
    fn record(&self, exchange: Exchange) {
        self.0.lock().unwrap().push(exchange);
    }
}

impl Records {
    /// `METHOD PATH` of everything but GETs.
    pub fn changes(&self) -> Vec<String> {
        let all = self.0.lock().unwrap();
        all.iter()
            .filter(|e| e.method != "GET")
            .map(|e| format!("{} {}", e.method, e.path))
            .collect()
    }
}

pub fn options() -> Options {
    Options {
        connect_timeout: Duration::from_secs(30),
        request_timeout: Duration::from_secs(60),
        call_deadline: Duration::from_secs(120),
        longest_wait: Duration::from_millis(20),
        settle: Duration::from_millis(500),
        poll: Duration::from_millis(20),
        ..Options::default()
    }
}

pub fn endpoint(address: &str, password: &str) -> Endpoint {
    Endpoint::from_params(
        address,
        None,
        USER,
        Secret::new(password.to_owned()),
        TlsTrust::Insecure,
        None,
    )
    .unwrap()
}

pub async fn open(address: &str) -> Result<(Redfish, Arc<Records>), BmcError> {
    let records = Arc::new(Records::default());
    let bmc = connect(endpoint(address, PASSWORD), records.clone(), options()).await?;
    Ok((bmc, records))
}

/// With another password than the one that all tests use.
pub async fn open_as(address: &str, password: &str) -> Result<Redfish, BmcError> {
    connect(endpoint(address, password), Arc::new(Records::default()), options()).await
}

/// A request as a scripted BMC sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }
}

/// What a scripted BMC answers: status, more header lines, body.
pub type Answer = (u16, &'static str, String);
pub type Script = dyn FnMut(&Seen) -> Option<Answer> + Send;

/// A BMC on loopback whose answers a closure gives; `None` closes the connection.
pub struct Scripted {
    pub address: String,
    pub seen: Arc<Mutex<VecDeque<Seen>>>,
}

impl Scripted {
    pub fn start(script: impl FnMut(&Seen) -> Option<Answer> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(VecDeque::new()));
        let (all, script): (_, Arc<Mutex<Script>>) = (seen.clone(), Arc::new(Mutex::new(script)));
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (all, script) = (all.clone(), script.clone());
                std::thread::spawn(move || serve(socket, &all, &script));
            }
        });
        Self { address, seen }
    }

    pub fn paths(&self) -> Vec<String> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .map(|s| format!("{} {}", s.method, s.path))
            .collect()
    }
}

fn serve(socket: TcpStream, all: &Mutex<VecDeque<Seen>>, script: &Mutex<Script>) {
    let mut reader = BufReader::new(socket);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
                None => break,
            }
        }
        let mut seen = Seen {
            method,
            path,
            headers,
            body: Value::Null,
        };
        let mut body = vec![0; seen.header("content-length").map_or(0, |v| v.parse().unwrap())];
        reader.read_exact(&mut body).unwrap();
        seen.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let answer = script.lock().unwrap()(&seen);
        all.lock().unwrap().push_back(seen);
        let Some((status, more, body)) = answer else { return };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{more}\r\n", body.len());
        if reader.get_mut().write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}
