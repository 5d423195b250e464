//! `isobar serve`: puts the parts together and takes them apart again.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ArgMatches;
use isobar_api::{AppState, Limits, Plugins, Server, ServerInfo, TlsIdentity, tls};
use isobar_boot::address::default_address;
use isobar_boot::{BootOptions, Booter, Connector, NetworkConnector, ServerAddr, Shadowed};
use isobar_files::{FilePlane, NfsPlane};
use isobar_image::BlobDir;
use isobar_model::content::Pack;
use isobar_objects::{Objects, Options};
use isobar_store::sqlite::StoreOptions;
use isobar_store::{SqliteStore, Vault};
use rustix::fs::Mode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::boots::BootsOf;
use crate::data_dir::{self, DataDir};
use crate::layers;
use crate::plane::Plane;
use crate::recent_logs::RecentLogs;
use crate::settings::{LogFormat, Settings};

/// The first user.
const FIRST_USER: &str = "rocketskates";
/// How long requests that are under way may take to end at shutdown.
const GRACE: Duration = Duration::from_secs(10);
/// How long logging out of BMCs may take then.
const LOG_OUT: Duration = Duration::from_secs(3);
/// Threads of the API that may wait for the disk.
const BLOCKING_THREADS: usize = 64;
/// Threads that boots run on. Their rows are read and written there: the API does not wait for what they wait for. One does
/// more than a hundred boots a second; with two, a sixth of the processor time goes into handing work over.
const BOOT_THREADS: usize = 1;

/// Runs the server until SIGINT or SIGTERM.
///
/// # Errors
/// Settings that do not fit, a data directory in use, a port that is taken, a damaged database.
pub(crate) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let settings = Settings::from_matches(matches)?;
    let logs = log_to_stderr(&settings)?;
    // Whatever is written from here on is for this user alone, also in a folder that others may enter.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let data = DataDir::open(&settings.data_dir)?;
    let parts = Parts::open(&settings, &data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // A thread that idles keeps a few megabytes of what it last worked on.
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("isobar")
        .build()
        .context("starting the runtime")?;
    let boots = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(BOOT_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("boots")
        .build()
        .context("starting the runtime of the boots")?;
    let served = runtime.block_on(serve(&settings, parts, logs, boots.handle()));
    boots.shutdown_timeout(GRACE);
    served?;
    // Blocking calls still under way are commits or reads of the disk: they end by themselves.
    runtime.shutdown_timeout(GRACE);
    tracing::info!("stopped");
    drop(data);
    Ok(())
}

fn log_to_stderr(settings: &Settings) -> anyhow::Result<RecentLogs> {
    let filter = EnvFilter::try_new(&settings.log_level)
        .with_context(|| format!("log-level {} is no level and no filter", settings.log_level))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.log_format {
        LogFormat::Text => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let recent = RecentLogs::default();
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(recent.clone())
        .init();
    Ok(recent)
}

/// What is there before anything is served.
struct Parts {
    objects: Objects,
    plugins: Plugins,
    blobs: Arc<BlobDir>,
    spool: std::path::PathBuf,
    tls: TlsIdentity,
    api: TcpListener,
    files: TcpListener,
    files_tls: Option<TcpListener>,
    tls_of_files: Arc<rustls::ServerConfig>,
    nfs: Option<TcpListener>,
    portmap: Option<(TcpListener, UdpSocket)>,
}

impl Parts {
    fn open(settings: &Settings, data: &DataDir) -> anyhow::Result<Self> {
        // The ports first: a second server on this host should say so before it does anything.
        let api = listen("api-listen", settings.api_listen)?;
        let files = listen("file-listen", settings.file_listen)?;
        let files_tls = settings
            .file_tls_listen
            .map(|at| listen("file-tls-listen", at))
            .transpose()?;
        let nfs = settings.nfs_listen.map(|at| listen("nfs-listen", at)).transpose()?;
        let portmap = settings.nfs_portmap_listen.map(portmapper).transpose()?;
        let tls = match (&settings.tls_cert, &settings.tls_key) {
            (Some(cert), Some(key)) => TlsIdentity::load(cert, key)?,
            _ => {
                let (names, addresses) = names_of_host(settings);
                TlsIdentity::load_or_make(&data.join("tls.crt"), &data.join("tls.key"), &names, &addresses)?
            }
        };
        let tls_of_files = match (&settings.file_tls_cert, &settings.file_tls_key) {
            (Some(cert), Some(key)) => TlsIdentity::load(cert, key)?.http1(),
            _ => tls.http1(),
        };
        let blobs = BlobDir::open(&data.join("blobs")).context("opening the folder of blobs")?;
        let mut layers: Vec<Pack> = Vec::new();
        for path in &settings.content_layers {
            layers.push(layers::read(path)?);
        }
        let mut plugins = Plugins::default();
        if let Some(folder) = &settings.plugin_dir {
            let (found, packs) = Plugins::open(folder)
                .with_context(|| format!("looking for plugin providers in {}", folder.display()))?;
            plugins = found;
            layers.extend(packs);
        }
        let objects = open_objects(settings, data, layers)?;
        Ok(Self {
            objects,
            plugins,
            blobs: Arc::new(blobs),
            spool: data.path().to_path_buf(),
            tls,
            api,
            files,
            files_tls,
            tls_of_files,
            nfs,
            portmap,
        })
    }
}

fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("listening on {address} (setting {setting})"))
}

fn portmapper(address: SocketAddr) -> anyhow::Result<(TcpListener, UdpSocket)> {
    let setting = "nfs-portmap-listen";
    let tcp = listen(setting, address)?;
    let same = tcp.local_addr()?;
    let udp = UdpSocket::bind(same).with_context(|| format!("listening on {same} (setting {setting})"))?;
    Ok((tcp, udp))
}

/// Names and addresses for the certificate.
fn names_of_host(settings: &Settings) -> (Vec<String>, Vec<IpAddr>) {
    let mut names = tls::host_names();
    let mut addresses = tls::host_addresses();
    for extra in settings.tls_names.iter().chain(&settings.address_for_machine) {
        match extra.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(extra.clone()),
        }
    }
    (names, addresses)
}

/// Opens database and objects; at the first start makes the first user and writes its password to a file.
fn open_objects(settings: &Settings, data: &DataDir, layers: Vec<Pack>) -> anyhow::Result<Objects> {
    let database = data.join("isobar.db");
    let password_path = data.join("rocketskates.password");
    let fresh = !database.exists();
    let given = settings.password_file.as_deref();
    let password = match given {
        Some(path) => Some(data_dir::read_password(path)?),
        // Written before the user is: a start that is killed in between finds it again, so that no user is left with
        // a password that nobody knows.
        None if fresh && !password_path.exists() => {
            let password = data_dir::random_password();
            data_dir::write_secret(&password_path, &password)
                .with_context(|| format!("writing {}", password_path.display()))?;
            Some(password)
        }
        None => data_dir::read_password(&password_path).ok(),
    };
    let vault = Vault::open(&data.join("vault.key"))?;
    let kept = StoreOptions {
        audit_rows: settings.audit_rows,
        audit_age_s: settings.audit_days.saturating_mul(86_400),
        cold: isobar_objects::COLD
            .iter()
            .chain(isobar_boot::record::COLD)
            .map(|&kind| kind.to_owned())
            .collect(),
        ..StoreOptions::default()
    };
    let store = SqliteStore::open(&database, kept).with_context(|| format!("opening {}", database.display()))?;
    let options = Options {
        content: settings.content_pack,
        layers,
        prefs: settings.initial_prefs(),
        first_user: (FIRST_USER.to_owned(), password),
        ..Options::default()
    };
    let objects = Objects::open(Arc::new(store), Arc::new(vault), options)?;
    // Every user was deleted, and the file too.
    if let Some(password) = objects.first_password() {
        data_dir::write_secret(&password_path, &password)
            .with_context(|| format!("writing {}", password_path.display()))?;
    }
    if fresh {
        let from = given.unwrap_or(&password_path);
        tracing::info!(user = FIRST_USER, password_file = %from.display(), "first start: made the first user");
    }
    Ok(objects)
}

async fn serve(
    settings: &Settings,
    parts: Parts,
    logs: RecentLogs,
    runtime: &tokio::runtime::Handle,
) -> anyhow::Result<()> {
    let Parts {
        objects,
        plugins,
        blobs,
        spool,
        tls,
        api,
        files,
        files_tls,
        tls_of_files,
        nfs,
        portmap,
    } = parts;
    let (api_address, file_address) = (api.local_addr()?, files.local_addr()?);
    let fingerprint = tls.fingerprint();
    let addr = ServerAddr {
        for_bmc: settings.address_for_bmc.clone(),
        for_machine: settings.address_for_machine.clone(),
        file_port: file_address.port(),
        tls_port: Some(match &files_tls {
            Some(listener) => listener.local_addr()?.port(),
            None => file_address.port(),
        }),
        nfs_port: match &nfs {
            Some(listener) => Some(listener.local_addr()?.port()),
            None => None,
        },
        api_port: api_address.port(),
    };
    let info = ServerInfo {
        id: settings.server_id.clone(),
        version: concat!("v", env!("CARGO_PKG_VERSION"), "-isobar").to_owned(),
        api_port: addr.api_port,
        file_port: addr.file_port,
        address: addr
            .for_machine
            .clone()
            .or_else(|| default_address().ok().map(|address| address.to_string()))
            .unwrap_or_else(|| api_address.ip().to_string()),
    };
    let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
    let options = BootOptions {
        addr: addr.clone(),
        fingerprint: fingerprint.clone(),
        timing: settings.timing.clone(),
        strict_bmc_address: settings.strict_bmc_address,
        open_iso_names: settings.open_isos,
        ledger: spool.join("exchanges"),
        post_mortems: spool.join("post-mortems"),
        shadow: settings.shadow,
    };
    let booter = start_boots(runtime, &objects, &blobs, settings, options).await?;
    // Open boots go on from here, and their BMCs are reading.
    let plane = FilePlane::start_all(
        std::iter::once(files).chain(files_tls).collect(),
        isobar_files::Config {
            tls: Some(tls_of_files),
            ..isobar_files::Config::default()
        },
        Arc::new(Plane {
            images: booter.resolver(),
            objects: objects.clone(),
            addr,
        }),
        booter.observer(),
        Arc::clone(&blobs),
    )?;
    let start_nfs = |listener| {
        let (images, reads) = (booter.resolver(), booter.observer());
        let limits = isobar_files::NfsConfig::default();
        NfsPlane::start(listener, portmap, limits, images, reads, Arc::clone(&blobs))
    };
    let nfs = nfs.map(start_nfs).transpose()?;
    let boots = Arc::new(BootsOf::new(booter.clone(), objects.clone(), settings.ipmi_provider));
    let state = AppState::new(objects, boots, blobs, spool, info)
        .with_plugins(plugins)
        .with_logs(Arc::new(move || logs.lines()));
    let limits = Limits {
        connections: settings.max_connections,
        ..Limits::default()
    };
    let server = Server::start_limited(api, &tls, state, limits).context("starting the API")?;
    tracing::info!(api = %api_address, files = %file_address, %fingerprint, "ready");
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    let stop = async {
        server.shutdown(GRACE).await;
        let planes = move || {
            plane.shutdown();
            drop(nfs);
        };
        let _ = tokio::task::spawn_blocking(planes).await;
        booter.log_out(LOG_OUT).await;
    };
    // A second signal ends it at once.
    tokio::select! {
        () = stop => Ok(()),
        _ = terminate.recv() => bail!("stopped by a second SIGTERM"),
        _ = interrupt.recv() => bail!("stopped by a second SIGINT"),
    }
}

/// The booting side, with a say in changes of machines from here on.
async fn start_boots(
    runtime: &tokio::runtime::Handle,
    objects: &Objects,
    blobs: &Arc<BlobDir>,
    settings: &Settings,
    options: BootOptions,
) -> anyhow::Result<Booter> {
    let network = Arc::new(NetworkConnector {
        addresses: settings.bmc_networks.clone(),
        settle: settings.timing.settle(),
        exchange: settings.timing.exchange(),
        learnt: Arc::default(),
    });
    let connector: Arc<dyn Connector> = match options.shadow {
        true => Arc::new(Shadowed(network)),
        false => network,
    };
    let (objects, blobs, blobs_of_isos) = (objects.clone(), Arc::clone(blobs), Arc::clone(blobs));
    // Reads and commits: not on a thread that others wait for.
    let start = move || -> anyhow::Result<Booter> {
        let booter = Booter::start(objects.clone(), blobs, connector, options).context("going on with boots")?;
        objects.set_hook(Arc::new(booter.clone()));
        objects.set_windows(Arc::new(booter.clone()));
        let indexed = objects
            .index_isos(&blobs_of_isos)
            .context("looking into the uploaded ISOs")?;
        if indexed > 0 {
            tracing::info!(isos = indexed, "looked into ISOs that were uploaded before");
        }
        objects
            .set_presence(Arc::new(booter.clone()))
            .context("looking which bootenvs have their files")?;
        Ok(booter)
    };
    runtime
        .spawn_blocking(start)
        .await
        .context("starting the booting side")?
}
