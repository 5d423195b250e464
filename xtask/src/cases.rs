//! `cargo xtask cases`: black-box cases of DRP's command line client against our server.
//!
//! Cases and runner stay outside the repository. Each test function gets a server of its own, on an empty store, set up
//! by ordinary options.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::run::{build_isobar, root, target};

/// What the test bed is set up with.
const PASSWORD: &str = "r0cketsk8ts";
const SETTINGS: &str = "\
server-id = \"Fred\"
address-for-bmc = \"127.0.0.1\"
address-for-machine = \"127.0.0.1\"
content-pack = false
ipmi-provider = false
log-level = \"warn\"

[initial-prefs]
baseTokenSecret = \"token-secret-token-secret-token1\"
systemGrantorSecret = \"system-grantor-secret\"
";
/// Layers of the test bed, below the folder of fixtures.
const LAYERS: &[&str] = &["layers/etc-dr-provision", "layers/default.yaml"];
/// Debug builds on a busy machine take their time.
const PATIENCE: &str = "120";
const UP: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(crate) struct Options {
    dir: Option<PathBuf>,
    cli: Option<PathBuf>,
    tests: Option<String>,
    have: Option<String>,
    show: Option<String>,
    at_least: Option<f64>,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || {
                let value = args.next().map(|value| (*value).to_owned());
                value.ok_or_else(|| anyhow!("{arg} wants a value"))
            };
            match *arg {
                "--dir" => options.dir = Some(value()?.into()),
                "--cli" => options.cli = Some(value()?.into()),
                "--tests" => options.tests = Some(value()?),
                "--have" => options.have = Some(value()?),
                "--show" => options.show = Some(value()?),
                "--at-least" => options.at_least = Some(value()?.parse().context("--at-least wants a number")?),
                other => bail!("cargo xtask cases has no option {other}"),
            }
        }
        Ok(options)
    }
}

/// The server of one test function; ends with the value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn cases(options: &Options) -> Result<()> {
    let given = root().join("../shared/drp-cases");
    let dir = options.dir.clone().unwrap_or_else(|| given.clone());
    if !dir.is_dir() {
        let text = format!("no cases in {}: give --dir", dir.display());
        ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{text}");
        println!("SKIPPED: {text}");
        return Ok(());
    }
    // Other cases may come without a runner and fixtures of their own.
    let beside = |name: &str| {
        [&dir, &given]
            .into_iter()
            .map(|d| d.join(name))
            .find(|path| path.exists())
    };
    let runner = beside("run").context("no runner beside the cases")?;
    let fixtures = beside("fixtures").context("no fixtures beside the cases")?;
    let isobar = build_isobar()?;
    let work = target().join("cases");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let cli = match &options.cli {
        Some(cli) => cli.clone(),
        None => {
            let cli = work.join("drpcli");
            std::os::unix::fs::symlink(&isobar, &cli)?;
            cli
        }
    };
    let plugins = work.join("plugins");
    fs::create_dir_all(&plugins)?;
    fs::copy(root().join("content/plugins/incrementer"), plugins.join("incrementer"))?;

    let (mut passed, mut total) = (0, 0);
    for test in tests(&dir, options.tests.as_deref())? {
        let folder = work.join(&test);
        fs::create_dir_all(&folder)?;
        let have = options.have.as_deref().unwrap_or("incrementer");
        let (mut server, port) = serve(
            &isobar,
            &folder,
            &fixtures,
            have.contains("incrementer").then_some(&plugins),
        )?;
        let report = folder.join("report.json");
        let mut command = Command::new("python3");
        command.arg(&runner).arg("--cli").arg(&cli).arg("--dir").arg(&dir);
        command.arg("--fixtures").arg(&fixtures).arg("--json").arg(&report);
        command.args([
            "--endpoint",
            &format!("https://127.0.0.1:{port}"),
            "--tests",
            &test,
            "--have",
            have,
        ]);
        command.args(["--timeout", PATIENCE, "--show", options.show.as_deref().unwrap_or("0")]);
        // It ends with 1 when a case fails; the report says which.
        let output = command.stdin(Stdio::null()).output().context("cannot run python3")?;
        // Else its end would look like that many failures.
        if let Some(status) = server.0.try_wait()? {
            let log = fs::read_to_string(folder.join("serve.log")).unwrap_or_default();
            bail!("{test}: isobar serve ended in the middle ({status}): {log}");
        }
        drop(server);
        let text = String::from_utf8_lossy(&output.stdout);
        if options.show.is_some() {
            print!("{text}");
        }
        let report = fs::read(&report).with_context(|| {
            format!(
                "{test}: the runner broke: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        let report: Value = serde_json::from_slice(&report)?;
        let count = |name: &str| report[name].as_u64().unwrap_or_default();
        println!("{test:28} {:4} / {:4}", count("passed"), count("total"));
        for failure in report["failures"].as_array().into_iter().flatten() {
            let args: Vec<&str> = failure["args"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let args: String = args.join(" ").replace('\n', " ").chars().take(70).collect();
            println!(
                "    line {}: {args}: {}",
                failure["line"],
                failure["why"].as_str().unwrap_or_default()
            );
        }
        passed += count("passed");
        total += count("total");
    }
    ensure!(total > 0, "not one case was run");
    #[allow(clippy::cast_precision_loss)]
    let rate = passed as f64 * 100.0 / total as f64;
    println!("{:28} {passed:4} / {total:4}   {rate:.1} %", "total");
    if let Some(least) = options.at_least {
        ensure!(rate >= least, "{rate:.1} % is less than {least} %");
    }
    Ok(())
}

fn tests(dir: &Path, wanted: Option<&str>) -> Result<Vec<String>> {
    let wanted: Option<Vec<&str>> = wanted.map(|list| list.split(',').collect());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(test) = name.strip_suffix(".jsonl")
            && wanted.as_ref().is_none_or(|wanted| wanted.contains(&test))
        {
            names.push(test.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Starts a server on an empty store; gives it and the port of its API.
fn serve(isobar: &Path, folder: &Path, fixtures: &Path, plugins: Option<&PathBuf>) -> Result<(Server, u16)> {
    let free = || -> Result<u16> { Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port()) };
    let (api, files) = (free()?, free()?);
    let (config, password) = (folder.join("isobar.toml"), folder.join("password"));
    fs::write(&config, SETTINGS)?;
    fs::write(&password, PASSWORD)?;
    let layers: Vec<String> = LAYERS
        .iter()
        .map(|layer| fixtures.join(layer).display().to_string())
        .collect();
    let log = File::create(folder.join("serve.log"))?;
    let mut command = Command::new(isobar);
    command.arg("serve").arg("--config").arg(&config);
    command
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--password-file")
        .arg(&password);
    command.args([
        "--api-listen",
        &format!("127.0.0.1:{api}"),
        "--file-listen",
        &format!("127.0.0.1:{files}"),
    ]);
    command.args(["--content-layers", &layers.join(",")]);
    if let Some(plugins) = plugins {
        command.arg("--plugin-dir").arg(plugins);
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
    let mut server = Server(child);
    let deadline = Instant::now() + UP;
    while TcpStream::connect(("127.0.0.1", api)).is_err() {
        if let Some(status) = server.0.try_wait()? {
            let log = fs::read_to_string(folder.join("serve.log")).unwrap_or_default();
            bail!("isobar serve ended ({status}): {log}");
        }
        ensure!(Instant::now() < deadline, "isobar serve did not come up");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((server, api))
}
