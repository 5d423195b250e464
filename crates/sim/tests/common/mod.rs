//! A client, an image server and images for the tests.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use isobar_sim::Sim;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Long enough for a busy machine, short enough to fail a test that hangs.
pub const SOON: Duration = Duration::from_secs(60);

pub struct Client {
    http: reqwest::Client,
    base: String,
    pub token: Option<String>,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Reply {
    pub fn message_id(&self) -> &str {
        self.body["error"]["@Message.ExtendedInfo"][0]["MessageId"]
            .as_str()
            .unwrap_or_default()
    }
}

impl Client {
    pub fn new(sim: &Sim) -> Self {
        let http = reqwest::Client::builder()
            .danger_accept_invalid_certs(true)
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self {
            http,
            base: sim.url().as_str().trim_end_matches('/').to_owned(),
            token: None,
        }
    }

    /// With a session.
    pub async fn login(sim: &Sim) -> Self {
        let mut client = Self::new(sim);
        let body = json!({"UserName": "admin", "Password": "password"});
        let reply = client.post("/redfish/v1/SessionService/Sessions", body).await;
        assert_eq!(reply.status, 201);
        client.token = Some(reply.headers["x-auth-token"].to_str().unwrap().to_owned());
        client
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self
            .http
            .request(method.parse().unwrap(), format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.header("X-Auth-Token", token),
            None => request,
        }
    }

    pub async fn send(request: reqwest::RequestBuilder) -> Result<Reply, reqwest::Error> {
        let reply = request.send().await?;
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        let body = serde_json::from_slice(&reply.bytes().await?).unwrap_or(Value::Null);
        Ok(Reply { status, headers, body })
    }

    pub async fn get(&self, path: &str) -> Reply {
        Self::send(self.request("GET", path)).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        Self::send(self.request("POST", path).json(&body)).await.unwrap()
    }

    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        Self::send(self.request("PATCH", path).json(&body)).await.unwrap()
    }

    pub async fn delete(&self, path: &str) -> Reply {
        Self::send(self.request("DELETE", path)).await.unwrap()
    }

    pub async fn insert(&self, url: &str) -> Reply {
        self.post(&format!("{CD}/Actions/VirtualMedia.InsertMedia"), json!({"Image": url}))
            .await
    }

    pub async fn eject(&self) -> Reply {
        self.post(&format!("{CD}/Actions/VirtualMedia.EjectMedia"), json!({}))
            .await
    }

    pub async fn boot(&self, target: &str, enabled: &str) -> Reply {
        let boot = json!({"BootSourceOverrideTarget": target, "BootSourceOverrideEnabled": enabled});
        self.patch(SYSTEM, json!({"Boot": boot})).await
    }

    pub async fn reset(&self, kind: &str) -> Reply {
        self.post(
            &format!("{SYSTEM}/Actions/ComputerSystem.Reset"),
            json!({"ResetType": kind}),
        )
        .await
    }
}

pub const SYSTEM: &str = "/redfish/v1/Systems/1";
pub const CD: &str = "/redfish/v1/Managers/1/VirtualMedia/2";

/// Method, and range as asked for.
pub type Asked = (String, Option<String>);

/// An image server that knows ranges, remembers requests and can be told to refuse.
pub struct ImageServer {
    pub address: SocketAddr,
    pub bytes: Bytes,
    pub requests: Arc<Mutex<Vec<Asked>>>,
    /// Answers 503 while set.
    pub broken: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for ImageServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ImageServer {
    pub async fn start(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let broken = Arc::new(AtomicBool::new(false));
        let (content, seen, fails) = (bytes.clone(), Arc::clone(&requests), Arc::clone(&broken));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (content, seen, fails) = (content.clone(), Arc::clone(&seen), Arc::clone(&fails));
                let service = service_fn(move |request| {
                    let reply = reply(&content, &seen, &fails, &request);
                    async move { Ok::<_, Infallible>(reply) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self {
            address,
            bytes,
            requests,
            broken,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/0123456789/boot.iso", self.address)
    }

    pub fn seen(&self) -> Vec<Asked> {
        self.requests.lock().unwrap().clone()
    }
}

fn reply(
    content: &Bytes,
    seen: &Mutex<Vec<Asked>>,
    fails: &AtomicBool,
    request: &Request<hyper::body::Incoming>,
) -> Response<Full<Bytes>> {
    let range = request.headers().get("range").map(|v| v.to_str().unwrap().to_owned());
    seen.lock().unwrap().push((request.method().to_string(), range.clone()));
    let status = |code| Response::builder().status(code).body(Full::default()).unwrap();
    if fails.load(Ordering::SeqCst) {
        return status(StatusCode::SERVICE_UNAVAILABLE);
    }
    if request.uri().path() != "/0123456789/boot.iso" {
        return status(StatusCode::NOT_FOUND);
    }
    let head = request.method() == "HEAD";
    let Some(range) = range else {
        let body = if head {
            Full::default()
        } else {
            Full::new(content.clone())
        };
        return Response::builder()
            .header("Content-Length", content.len())
            .body(body)
            .unwrap();
    };
    let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
    let end = end.min(content.len() - 1);
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header("Content-Range", format!("bytes {start}-{end}/{}", content.len()))
        .body(Full::new(content.slice(start..=end)))
        .unwrap()
}

/// Runs a program of a Debian package.
pub fn run(program: &str, package: &str, folder: &Path, args: &[&str]) {
    let output = Command::new(program)
        .current_dir(folder)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}: apt-get install {package}"));
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub const COMMAND_LINE: &str = "console=ttyS0 rs.uuid=0000 provisioner.web=http://192.168.77.1:8091";

/// A disc with all that a paper boot reads, made by xorriso; sizes of kernel and initrd as given.
pub fn disc(kernel: usize, initrd: usize) -> Bytes {
    let folder = TempDir::new().unwrap();
    let tree = folder.path().join("tree");
    let put = |path: &str, bytes: &[u8]| {
        let path: PathBuf = tree.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let noise = |n: usize, seed: u8| {
        (0..n)
            .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
            .collect::<Vec<_>>()
    };
    put("boot/grub/i386-pc/eltorito.img", &noise(4096, 1));
    put("boot/grub/efi.img", &noise(200_000, 2));
    let menu = format!(
        "set timeout=0\nmenuentry sledgehammer {{\n  linux /vmlinuz0 {COMMAND_LINE}\n  initrd /stage1.img /isobar/own.img\n}}\n"
    );
    put("boot/grub/grub.cfg", menu.as_bytes());
    put("vmlinuz0", &noise(kernel, 3));
    put("stage1.img", &noise(initrd, 4));
    put("isobar/own.img", b"own initrd of this machine");
    #[rustfmt::skip]
    run("xorriso", "xorriso", folder.path(), &[
        "-as", "mkisofs", "-quiet", "-R", "-V", "SLEDGEHAMMER", "-o", "disc.iso", "-c", "boot.catalog",
        "-b", "boot/grub/i386-pc/eltorito.img", "-no-emul-boot", "-boot-load-size", "4",
        "-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot", "tree",
    ]);
    std::fs::read(folder.path().join("disc.iso")).unwrap().into()
}
