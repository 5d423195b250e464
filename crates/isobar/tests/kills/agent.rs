//! The server dies between the agent's calls: after it has done what was asked, before its answer is out.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use isobar_client::{Auth, Client, ClientError, Method, TlsTrust};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::stage::{PATIENCE, Server, TIMING};
use crate::{set_bootenv, stage};

/// An answer that the agent is not to hear: what was asked, and what the server said.
struct Lost {
    asked: Value,
    said: Value,
    /// Dropped when the agent may hear that its connection is gone.
    _hold: mpsc::Sender<()>,
}

/// Stands before the server with the server's own certificate, and loses answers.
struct Between {
    port: u16,
    lost: mpsc::Receiver<Lost>,
}

struct Door {
    api: u16,
    data: PathBuf,
    /// Ends of the paths, or commands to the agent, whose next answer is lost, in this order.
    losing: Mutex<Vec<&'static str>>,
    lost: mpsc::Sender<Lost>,
}

impl Between {
    fn open(server: &Server, losing: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, lost) = mpsc::channel();
        let door = Arc::new(Door {
            api: server.api_port(),
            data: server.data(),
            losing: Mutex::new(losing.to_vec()),
            lost: tell,
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let door = Arc::clone(&door);
                // A connection that breaks is what this is about.
                std::thread::spawn(move || door.serve(stream));
            }
        });
        Self { port, lost }
    }

    fn next(&self) -> Lost {
        self.lost.recv_timeout(PATIENCE).expect("the agent calls")
    }
}

impl Door {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let chain = CertificateDer::pem_file_iter(self.data.join("tls.crt")).ok()?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .ok()?
            .with_no_client_auth()
            .with_single_cert(
                chain.flatten().collect(),
                PrivateKeyDer::from_pem_file(self.data.join("tls.key")).ok()?,
            )
            .ok()?;
        let mut tls = BufReader::new(StreamOwned::new(ServerConnection::new(Arc::new(config)).ok()?, stream));
        let mut line = String::new();
        tls.read_line(&mut line).ok()?;
        let (method, rest) = line.split_once(' ')?;
        let (path, _) = rest.split_once(' ')?;
        let (mut length, mut proof) = (0, None);
        loop {
            let mut header = String::new();
            tls.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim().split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().ok()?,
                "authorization" => proof = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        tls.read_exact(&mut body).ok()?;
        let asked: Value = serde_json::from_slice(&body).ok()?;
        let (status, said) = self.ask(method, path, proof.as_deref(), &asked)?;

        let loses = {
            let mut losing = self.losing.lock().unwrap();
            let loses = losing
                .first()
                .is_some_and(|end| path.ends_with(end) || said["command"] == *end)
                && status < 300;
            loses.then(|| losing.remove(0))
        };
        if loses.is_some() {
            let (hold, held) = mpsc::channel();
            let _ = self.lost.send(Lost {
                asked,
                said,
                _hold: hold,
            });
            let _ = held.recv();
            return None;
        }
        let said = said.to_string();
        let answer = format!(
            "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{said}",
            said.len()
        );
        let tls = tls.get_mut();
        tls.write_all(answer.as_bytes()).ok()?;
        tls.conn.send_close_notify();
        tls.flush().ok()
    }

    /// What the server says; nothing when it is not there.
    fn ask(&self, method: &str, path: &str, proof: Option<&str>, body: &Value) -> Option<(u16, Value)> {
        let client = Client::new(
            &format!("https://127.0.0.1:{}", self.api),
            Auth::None,
            TlsTrust::Insecure,
        )
        .ok()?;
        let method = Method::from_bytes(method.as_bytes()).ok()?;
        let mut request = client.request(method, path).patience(Duration::from_secs(30));
        if let Some(proof) = proof {
            request = request.header("Authorization", proof);
        }
        match request.send_json(body) {
            Ok(answer) => Some((answer.status(), answer.json().ok()?)),
            Err(ClientError::Api(error)) => Some((error.code, json!({}))),
            Err(ClientError::Status { status, .. }) => Some((status, json!({}))),
            Err(_) => None,
        }
    }
}

fn exchange(server: &Server, body: &Value) -> Result<Value, String> {
    let nobody = server.nobody();
    nobody
        .post("/isobar/v1/agent/exchange", body)
        .map_err(|e| e.to_string())
}

fn restart(server: &mut Server) {
    server.kill();
    server.start();
}

#[test]
fn an_agent_copes_with_a_server_that_dies_before_each_of_its_answers() {
    let mut server = Server::new(stage::Options {
        timing: TIMING.to_owned(),
        ..stage::Options::default()
    });
    let between = Between::open(&server, &["/exchange", "/checkin", "/heartbeat"]);
    let (runtime, players) = (stage::runtime(), stage::Players::default());
    server.start();
    server.import();
    let mut config = stage::sim_config();
    config.os_up = Some(players.hook(between.port));
    let sim = runtime.block_on(isobar_sim::start(config)).unwrap();
    let uuid = server
        .create_machines(&[("mach-01".to_owned(), sim.url().to_string())])
        .remove(0);
    set_bootenv(&server.client(), &uuid, "sledgehammer").unwrap();

    let lost = between.next();
    restart(&mut server);
    let mut other = lost.asked.clone();
    other["nonce"] = json!("another");
    let refused = exchange(&server, &other).unwrap_err();
    assert!(refused.contains("by someone else"), "{refused}");
    let again = exchange(&server, &lost.asked).unwrap();
    assert_eq!(again["token"], lost.said["token"], "the same nonce gets the same token");
    let asked = lost.asked.clone();
    drop(lost);

    let lost = between.next();
    restart(&mut server);
    let refused = exchange(&server, &asked).unwrap_err();
    assert!(
        refused.contains("is in use"),
        "after its first use nobody gets it again: {refused}"
    );
    drop(lost);

    let lost = between.next();
    assert_eq!(lost.asked["machine"], uuid);
    restart(&mut server);
    let heard = players.heartbeats();
    drop(lost);

    server.wait("the boot is done and the agent is heard", |s| {
        let boot = s.last_boot_of("mach-01");
        boot["state"] == "done" && boot["agent_up"] == true && players.heartbeats() > heard
    });
    assert_eq!(players.all().len(), 1, "booted once");
    assert_eq!(stage::overlaps(&sim.requests(), &server.starts), [""; 0]);
}

#[test]
fn an_order_to_reboot_that_was_lost_on_its_way_is_given_again() {
    let mut server = Server::new(stage::Options {
        timing: TIMING.to_owned(),
        ..stage::Options::default()
    });
    let between = Between::open(&server, &["reboot"]);
    let (runtime, players) = (stage::runtime(), stage::Players::default());
    server.start();
    server.import();
    let mut config = stage::sim_config();
    config.os_up = Some(players.hook(between.port));
    let sim = runtime.block_on(isobar_sim::start(config)).unwrap();
    let uuid = server
        .create_machines(&[("mach-01".to_owned(), sim.url().to_string())])
        .remove(0);
    let booted = |boot: &Value| boot["state"] == "done" && boot["agent_up"] == true;
    set_bootenv(&server.client(), &uuid, "sledgehammer").unwrap();
    server.wait("the first boot is done", |s| booted(&s.last_boot_of("mach-01")));
    let first = server.last_boot_of("mach-01")["id"].clone();

    set_bootenv(&server.client(), &uuid, "local").unwrap();
    set_bootenv(&server.client(), &uuid, "sledgehammer").unwrap();
    let lost = between.next();
    server.wait("the order counts as given", |s| {
        let boot = s.last_boot_of("mach-01");
        boot["id"] != first && boot["handed_over"] == true
    });
    restart(&mut server);
    drop(lost);

    server.wait("the second boot is done", |s| {
        let boot = s.last_boot_of("mach-01");
        boot["id"] != first && booted(&boot)
    });
    assert_eq!(players.all().len(), 2, "rebooted once");
    assert_eq!(stage::overlaps(&sim.requests(), &server.starts), [""; 0]);
}
