//! A server on a real store, with a booting side that only remembers, and a client that shows everything.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isobar_api::boots::{AvailableAction, Boots, Checkin, Console, Exchange, Heartbeat, Typed, Which};
use isobar_api::{AppState, Handle, Limits, Plugins, Server, ServerInfo, TlsIdentity};
use isobar_image::{Base, BaseFile, BaseSpec, BlobDir, Content, FileRole, Image, OwnFile};
use isobar_model::ApiError;
use isobar_model::content::Pack;
use isobar_objects::{Objects, Options, Principal};
use isobar_store::{SqliteStore, Vault};
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio_rustls::client::TlsStream;

pub const PASSWORD: &str = "correct horse";

pub struct Rig {
    pub address: SocketAddr,
    pub objects: Objects,
    pub boots: Arc<TestBoots>,
    pub blobs: Arc<BlobDir>,
    pub handle: Option<Handle>,
    pub dir: tempfile::TempDir,
    connector: tokio_rustls::TlsConnector,
    h2_connector: tokio_rustls::TlsConnector,
}

impl Rig {
    pub async fn start() -> Self {
        Self::limited(Limits::default()).await
    }

    pub async fn limited(limits: Limits) -> Self {
        Self::with(limits, Plugins::default(), Vec::new()).await
    }

    pub async fn with_plugins(plugins: Plugins, layers: Vec<Pack>) -> Self {
        Self::with(Limits::default(), plugins, layers).await
    }

    async fn with(limits: Limits, plugins: Plugins, layers: Vec<Pack>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            first_user: ("rocketskates".to_owned(), Some(PASSWORD.to_owned())),
            layers,
            ..Options::default()
        };
        // Opening commits, and waits for it.
        let open = move || {
            let store = Arc::new(SqliteStore::in_memory().unwrap());
            Objects::open(store, Arc::new(Vault::ephemeral()), options).unwrap()
        };
        let objects = tokio::task::spawn_blocking(open).await.unwrap();
        let blobs = Arc::new(BlobDir::open(&dir.path().join("blobs")).unwrap());
        let boots = Arc::new(TestBoots::default());
        let info = ServerInfo {
            id: "Fred".into(),
            version: "v0.0.0-test".into(),
            api_port: 1,
            file_port: 2,
            address: "192.0.2.1".into(),
        };
        let state = AppState::new(
            objects.clone(),
            Arc::clone(&boots) as Arc<dyn Boots>,
            Arc::clone(&blobs),
            dir.path().to_path_buf(),
            info,
        )
        .with_plugins(plugins);
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let tls =
            TlsIdentity::load_or_make(&cert, &key, &["localhost".into()], &["127.0.0.1".parse().unwrap()]).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = Server::start_limited(listener, &tls, state, limits).unwrap();
        // The certificate that was made has to be one that a strict client takes.
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(rustls_pki_types::CertificateDer::from_pem_file(&cert).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut h2 = config.clone();
        h2.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            address: handle.local_addr(),
            objects,
            boots,
            blobs,
            handle: Some(handle),
            dir,
            connector: Arc::new(config).into(),
            h2_connector: Arc::new(h2).into(),
        }
    }

    pub async fn tls(&self) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
        self.tls_by(&self.connector).await
    }

    async fn tls_by(
        &self,
        connector: &tokio_rustls::TlsConnector,
    ) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
        let tcp = tokio::net::TcpStream::connect(self.address).await?;
        connector.connect("127.0.0.1".try_into().unwrap(), tcp).await
    }

    /// A connection that offers these protocols by ALPN.
    pub async fn tls_offering(&self, protocols: &[&str]) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
        let mut config = rustls::ClientConfig::clone(self.connector.config());
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self.tls_by(&Arc::new(config).into()).await
    }

    /// The revisions of the first events of a stream.
    pub async fn first_ids(&self, path: &str, count: usize) -> Vec<u64> {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let mut stream = self.tls().await.unwrap();
        let login = BASE64_STANDARD.encode(format!("rocketskates:{PASSWORD}"));
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut ids = Vec::new();
        while ids.len() < count {
            let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
            let line = line.expect("nothing more came").unwrap().expect("the stream ended");
            if let Some(id) = line.strip_prefix("id: ") {
                ids.push(id.parse().unwrap());
            }
        }
        ids
    }

    /// A request by rocketskates.
    pub fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        self.bare(method, path).basic("rocketskates", PASSWORD)
    }

    /// A request by nobody.
    pub fn bare(&self, method: &str, path: &str) -> Ask<'_> {
        Ask {
            rig: self,
            h2: false,
            request: Request::builder().method(method).uri(path),
            body: Bytes::new(),
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path).send().await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.ask("POST", path).json(&body).send().await
    }

    /// A machine; gives its UUID.
    pub async fn machine(&self, name: &str) -> String {
        let reply = self.post("/api/v3/machines", json!({ "Name": name })).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["Uuid"].as_str().unwrap().to_owned()
    }

    pub async fn machine_token(&self, uuid: &str) -> String {
        let uuid = uuid.to_owned();
        let issue = move |o: &Objects| o.issue_machine_token(&uuid, Duration::from_secs(600), &Principal::system());
        self.objects.run(issue).await.unwrap().as_str().to_owned()
    }

    pub async fn user_token(&self, query: &str) -> String {
        let reply = self.get(&format!("/api/v3/users/rocketskates/token{query}")).await;
        reply.json()["Token"].as_str().unwrap().to_owned()
    }

    /// A disc with a kernel of some size.
    pub fn disc(&self, kernel: &[u8]) -> Arc<Image> {
        let spec = BaseSpec {
            volume_id: "TEST".into(),
            files: vec![BaseFile {
                path: "vmlinuz0".into(),
                content: Content::take_in(&mut &kernel[..], &self.blobs).unwrap(),
                role: FileRole::Kernel,
            }],
            bios_image: None,
            efi_image: None,
            catalog: "boot.catalog".into(),
            compact: false,
        };
        let base = Arc::new(Base::build(&spec, &self.blobs).unwrap());
        let own = OwnFile {
            path: "boot/grub/grub.cfg".into(),
            bytes: Bytes::from_static(b"set timeout=0\n"),
            role: FileRole::GrubConfig,
        };
        Arc::new(isobar_image::plan(&base, &[own]).unwrap())
    }
}

/// One connection that is used again, for tests with many requests.
pub struct Line<'a> {
    rig: &'a Rig,
    sender: Option<hyper::client::conn::http1::SendRequest<Full<Bytes>>>,
}

impl<'a> Line<'a> {
    pub fn new(rig: &'a Rig) -> Self {
        Self { rig, sender: None }
    }

    /// Asks, with a token if there is one; an answer that is no JSON is a text.
    pub async fn ask(&mut self, method: &str, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::from(body.to_string()))).unwrap();
        let mut sender = match self.sender.take().filter(|sender| sender.is_ready()) {
            Some(sender) => sender,
            None => {
                let stream = TokioIo::new(self.rig.tls().await.unwrap());
                let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                sender
            }
        };
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        // Of an open console no more than its name is waited for, either.
        let headers = answer.headers();
        let endless = headers.get("content-type").is_some_and(|t| t == "text/event-stream")
            || headers.contains_key("isobar-console");
        if endless {
            return (status, Value::Null);
        }
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let ready = sender.ready().await.is_ok();
        self.sender = Some(sender).filter(|_| ready);
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        let body = match body.len() {
            0 => Value::Null,
            _ => serde_json::from_slice(&body).unwrap_or_else(|_| text()),
        };
        (status, body)
    }
}

pub struct Ask<'a> {
    rig: &'a Rig,
    h2: bool,
    request: http::request::Builder,
    body: Bytes,
}

impl Ask<'_> {
    pub fn basic(self, user: &str, password: &str) -> Self {
        let value = BASE64_STANDARD.encode(format!("{user}:{password}"));
        self.auth(&format!("Basic {value}"))
    }

    pub fn token(self, token: &str) -> Self {
        self.auth(&format!("Bearer {token}"))
    }

    pub fn auth(mut self, value: &str) -> Self {
        self.request
            .headers_mut()
            .unwrap()
            .insert("authorization", value.parse().unwrap());
        self
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().unwrap().insert(name, value.parse().unwrap());
        self
    }

    pub fn h2(mut self) -> Self {
        self.h2 = true;
        self
    }

    pub fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string())
    }

    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", content_type)
    }

    pub async fn send(self) -> Reply {
        let rig = self.rig;
        let request = self
            .request
            .header("host", "127.0.0.1")
            .body(Full::new(self.body))
            .unwrap();
        let response = if self.h2 {
            let stream = rig.tls_by(&rig.h2_connector).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let (mut parts, body) = request.into_parts();
            parts.headers.remove("host");
            parts.uri = format!("https://127.0.0.1{}", parts.uri).parse().unwrap();
            sender.send_request(Request::from_parts(parts, body)).await.unwrap()
        } else {
            let stream = rig.tls().await.unwrap();
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let (parts, body) = response.into_parts();
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {:?} {}",
            self.status,
            self.headers,
            String::from_utf8_lossy(&self.body)
        )
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Checks status and error body, given as `TYPE: model/key: message` the way clients print it.
    #[track_caller]
    pub fn refused(&self, code: u16, text: &str) {
        assert_eq!(self.status, code, "{self:?}");
        let error: ApiError = serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert_eq!(error.code, code, "{self:?}");
        assert_eq!(error.to_string(), text);
    }
}

/// What a console that is open says.
pub type Say = tokio::sync::mpsc::Sender<Result<Vec<u8>, String>>;

/// A booting side that only remembers.
#[derive(Default)]
pub struct TestBoots {
    pub console: Mutex<Option<Say>>,
    pub heard: Mutex<Vec<String>>,
    pub boots: Mutex<Vec<Value>>,
    pub changed: Notify,
    /// How many have waited for news.
    pub waiting: AtomicUsize,
    pub images: Mutex<HashMap<String, Arc<Image>>>,
    pub tars: Mutex<Vec<(String, Vec<u8>)>>,
    /// Actions wait for this when they are called `slow`.
    pub go_on: Notify,
}

impl TestBoots {
    fn hear(&self, what: String) {
        self.heard.lock().unwrap().push(what);
    }

    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    pub fn set_boot(&self, boot: Value) {
        *self.boots.lock().unwrap() = vec![boot];
        self.changed.notify_waiters();
    }
}

fn powerstatus(command: &str) -> AvailableAction {
    AvailableAction {
        provider: "ipmi".into(),
        model: "machines".into(),
        command: command.into(),
        required_params: vec!["ipmi/address".into()],
        optional_params: vec![],
    }
}

#[async_trait]
impl Boots for TestBoots {
    async fn exchange(&self, request: Exchange) -> Result<String, ApiError> {
        match request.secret.as_str() {
            "good" => Ok(format!("token for {} {}", request.machine, request.nonce)),
            _ => Err(ApiError::new(
                403,
                "AUTH",
                "machines",
                &request.machine,
                "this boot is over",
            )),
        }
    }

    async fn checkin(&self, request: Checkin) -> Result<Value, ApiError> {
        self.hear(format!("checkin {} {}", request.machine, request.root_in_memory));
        Ok(json!({ "heartbeat_s": 5 }))
    }

    async fn heartbeat(&self, request: Heartbeat) -> Result<Value, ApiError> {
        self.hear(format!("heartbeat {}", request.machine));
        Ok(json!({ "command": null, "heartbeat_s": 5 }))
    }

    async fn boots(&self, which: Which) -> Result<Vec<Value>, ApiError> {
        let boots = self.boots.lock().unwrap().clone();
        let machine = which.machine.as_deref();
        Ok(boots
            .into_iter()
            .filter(|b| machine.is_none_or(|m| b["machine"] == m))
            .collect())
    }

    async fn boot(&self, id: &str) -> Result<Value, ApiError> {
        let boots = self.boots.lock().unwrap();
        let found = boots.iter().find(|b| b["id"] == id).cloned();
        found.ok_or_else(|| ApiError::not_found("GET", "boots", id))
    }

    async fn wait_boot(&self, id: &str, after: u64, wait: Duration) -> Result<Value, ApiError> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let changed = self.changed.notified();
            let boot = self.boot(id).await?;
            if boot["seq"].as_u64() > Some(after) || tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Ok(boot);
            }
        }
    }

    async fn isos(&self) -> Result<Vec<Value>, ApiError> {
        Ok(vec![json!({ "machine": "m" })])
    }

    async fn iso_image(&self, machine: &str, bootenv: &str) -> Result<Arc<Image>, ApiError> {
        let key = format!("{machine}/{bootenv}");
        let found = self.images.lock().unwrap().get(&key).cloned();
        found.ok_or_else(|| ApiError::not_found("GET", "isos", &key))
    }

    async fn bases(&self) -> Result<Vec<Value>, ApiError> {
        Ok(self
            .tars
            .lock()
            .unwrap()
            .iter()
            .map(|(name, _)| json!({ "name": name }))
            .collect())
    }

    async fn import_base(&self, name: &str, mut tar: std::fs::File, _by: &Principal) -> Result<Value, ApiError> {
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes).unwrap();
        let size = bytes.len();
        self.tars.lock().unwrap().push((name.to_owned(), bytes));
        Ok(json!({ "name": name, "size": size }))
    }

    async fn actions(&self, _machine: &str) -> Result<Vec<AvailableAction>, ApiError> {
        Ok(vec![powerstatus("powerstatus")])
    }

    async fn action(&self, machine: &str, command: &str) -> Result<AvailableAction, ApiError> {
        match command {
            "powerstatus" => Ok(powerstatus(command)),
            _ => Err(ApiError::action_not_found("machines", machine, command)),
        }
    }

    async fn run_action(
        &self,
        machine: &str,
        key: &str,
        command: &str,
        params: Map<String, Value>,
        by: &Principal,
    ) -> Result<Value, ApiError> {
        self.hear(format!(
            "begin {command} {machine} {} {}",
            Value::Object(params),
            by.name()
        ));
        match command {
            "powerstatus" => return Ok(json!("On")),
            "slow" => self.go_on.notified().await,
            _ => return Err(ApiError::action_unknown("machines", key, command)),
        }
        self.hear(format!("end {command}"));
        Ok(Value::Null)
    }

    async fn operations(&self, machine: Option<&str>, _all: bool) -> Result<Vec<Value>, ApiError> {
        let machine = machine.map(str::to_owned);
        let which = Which {
            machine,
            ..Which::default()
        };
        self.boots(which).await
    }

    async fn operation(&self, id: &str) -> Result<Value, ApiError> {
        self.boot(id).await
    }

    async fn rolling_boot(&self, order: Map<String, Value>, by: &Principal) -> Result<Value, ApiError> {
        self.hear(format!("roll {} {}", Value::Object(order), by.name()));
        Ok(json!({}))
    }

    async fn rolling_report(&self, id: &str) -> Result<Value, ApiError> {
        self.boot(id).await
    }

    async fn post_mortem(&self, id: &str) -> Result<Value, ApiError> {
        self.boot(id).await
    }

    async fn cancel_operation(&self, id: &str, by: &Principal) -> Result<Value, ApiError> {
        self.hear(format!("cancel {id} {}", by.name()));
        self.boot(id).await
    }

    async fn retry_operation(&self, id: &str, by: &Principal) -> Result<Value, ApiError> {
        self.hear(format!("retry {id} {}", by.name()));
        self.boot(id).await
    }

    async fn doctor(
        &self,
        machine: &str,
        _: &str,
        by: &Principal,
    ) -> Result<tokio::sync::mpsc::Receiver<Value>, ApiError> {
        self.hear(format!("doctor {machine} {}", by.name()));
        let (tell, rows) = tokio::sync::mpsc::channel(1);
        let _ = tell.send(json!({"done": true, "bad": 0})).await;
        Ok(rows)
    }

    async fn record(
        &self,
        machine: &str,
        key: &str,
        by: &Principal,
    ) -> Result<tokio::sync::mpsc::Receiver<Value>, ApiError> {
        self.doctor(machine, key, by).await
    }

    async fn scan(&self, _: Value, by: &Principal) -> Result<tokio::sync::mpsc::Receiver<Value>, ApiError> {
        self.doctor("network", "", by).await
    }

    async fn open_console(&self, machine: &str, _: &str, take_over: bool, _: &Principal) -> Result<Console, ApiError> {
        let (say, screen) = tokio::sync::mpsc::channel(4);
        say.send(Ok(format!("{machine} {take_over}\r\n").into_bytes()))
            .await
            .unwrap();
        *self.console.lock().unwrap() = Some(say);
        Ok(Console {
            id: "c0".into(),
            screen,
        })
    }

    async fn type_into(&self, machine: &str, console: &str, typed: Typed) -> Result<(), ApiError> {
        let open = self.console.lock().unwrap().clone().filter(|_| console == "c0");
        let gone = || ApiError::new(404, "CONSOLE", "machines", machine, "No open console");
        let said = match typed {
            Typed::Text(text) if text.as_slice() == b"~fail" => Err("the BMC is gone".to_owned()),
            Typed::Text(text) => Ok(text),
            Typed::Break => Ok(b"<break>".to_vec()),
        };
        open.ok_or_else(gone)?.send(said).await.map_err(|_| gone())
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
