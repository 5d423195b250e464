//! `isobar sledgehammer build`: makes the live image and gives it to a server.

use std::io::PipeWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use isobar_client::{Auth, Client, Login, Secret, TlsTrust, path};
use isobar_sledgehammer::{BuildOptions, Bundle, MANIFEST, TREE};
use serde_json::Value;

/// The command `sledgehammer`.
pub(crate) fn command() -> Command {
    let file = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let build = Command::new("build")
        .about("Build the live image from Debian's packages and import it into a server")
        .arg(file(
            "out",
            "DIR",
            "Folder of the bundle [default: ~/.cache/isobar/sledgehammer]",
        ))
        .arg(file(
            "agent",
            "FILE",
            "Static agent [default: isobar-agent beside this program]",
        ))
        .arg(file(
            "cache",
            "DIR",
            "Where downloaded packages are kept [default: ~/.cache/isobar/packages]",
        ))
        .arg(file(
            "kernel",
            "PACKAGE",
            "Kernel package [default: the release's current one]",
        ))
        .arg(file("name", "NAME", "Name of the base").default_value("sledgehammer"))
        .arg(
            Arg::new("no-import")
                .long("no-import")
                .action(ArgAction::SetTrue)
                .help("Only build"),
        )
        .arg(
            Arg::new("endpoint")
                .short('E')
                .long("endpoint")
                .value_name("URL")
                .env("RS_ENDPOINT")
                .default_value("https://127.0.0.1:8092")
                .help("The server"),
        )
        .arg(file(
            "password-file",
            "FILE",
            "File with the password of rocketskates, instead of RS_KEY or RS_TOKEN",
        ))
        .after_help(
            "RS_KEY (user:password) or RS_TOKEN say who imports.\n\n\
             Examples:\n  \
             isobar sledgehammer build --password-file /var/lib/isobar/rocketskates.password\n  \
             isobar sledgehammer build --out ./bundle --agent ./isobar-agent --no-import",
        );
    Command::new("sledgehammer")
        .about("Build the image that machines boot")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(build)
}

/// Runs it.
///
/// # Errors
/// A build or an import that failed.
pub(crate) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let Some(("build", matches)) = matches.subcommand() else {
        bail!("sledgehammer has the one command build");
    };
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    // Before minutes of building.
    let client = match matches.get_flag("no-import") {
        true => None,
        false => Some(login(text("endpoint").unwrap_or_default(), text("password-file"))?),
    };
    let options = BuildOptions {
        out: text("out").map_or_else(|| cache("sledgehammer"), |p| Ok(p.into()))?,
        agent: text("agent").map_or_else(beside, |p| Ok(p.into()))?,
        cache: text("cache").map_or_else(|| cache("packages"), |p| Ok(p.into()))?,
        kernel: text("kernel").map(str::to_owned),
    };
    let bundle = isobar_sledgehammer::build(&options, &mut |line| eprintln!("{line}"))?;
    eprintln!(
        "built {} {} in {}",
        bundle.manifest.name,
        bundle.manifest.version,
        bundle.dir.display()
    );
    if let Some(client) = client {
        let base = import(&client, text("name").unwrap_or("sledgehammer"), &bundle)?;
        println!("{}", serde_json::to_string_pretty(&base)?);
    }
    Ok(())
}

fn login(endpoint: &str, password_file: Option<&str>) -> anyhow::Result<Client> {
    let client = Client::new(endpoint, Auth::None, TlsTrust::Insecure)?;
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let login = if let Some(file) = password_file {
        let password = Secret::new(crate::data_dir::read_password(Path::new(file))?);
        Login::with_password(&client, "rocketskates", &password, None)
    } else if let Some(token) = variable("RS_TOKEN") {
        Login::with_token(&client, Secret::new(token))
    } else if let Some(key) = variable("RS_KEY") {
        let Some((user, password)) = key.split_once(':') else {
            bail!("RS_KEY has the form user:password");
        };
        Login::with_password(&client, user, &Secret::new(password), None)
    } else {
        bail!("nobody to import as: set RS_KEY or RS_TOKEN, give --password-file, or only build with --no-import");
    };
    Ok(login.with_context(|| format!("logging in to {endpoint}"))?.client)
}

/// Sends the bundle as a tar that is made while it is sent.
fn import(client: &Client, name: &str, bundle: &Bundle) -> anyhow::Result<Value> {
    let size: u64 = bundle.manifest.files.iter().map(|file| file.size).sum();
    eprintln!("importing {} MiB as {name} into {}", size >> 20, client.endpoint());
    let (mut reader, writer) = std::io::pipe().context("a pipe")?;
    let (sent, packed) = std::thread::scope(|scope| {
        let packer = scope.spawn(|| pack(bundle, writer));
        let sent = client.upload(
            &path!("isobar", "v1", "bases", name),
            "application/x-tar",
            None,
            &mut reader,
        );
        // When the server has hung up, the packer must not wait for it.
        drop(reader);
        (sent, packer.join())
    });
    let base = sent.context("importing the bundle")?;
    match packed {
        Ok(result) => result.context("packing the bundle")?,
        Err(_) => bail!("packing the bundle broke off"),
    }
    Ok(base)
}

fn pack(bundle: &Bundle, to: PipeWriter) -> std::io::Result<()> {
    let mut tar = tar::Builder::new(std::io::BufWriter::with_capacity(1 << 20, to));
    tar.append_path_with_name(bundle.dir.join(MANIFEST), MANIFEST)?;
    for file in &bundle.manifest.files {
        let name = Path::new(TREE).join(&file.path);
        tar.append_path_with_name(bundle.dir.join(&name), &name)?;
    }
    tar.into_inner()?
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    Ok(())
}

/// `~/.cache/isobar/NAME`.
fn cache(name: &str) -> anyhow::Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) if !home.is_empty() => PathBuf::from(home).join(".cache"),
        _ => bail!("there is no HOME to keep files in: give --out and --cache"),
    };
    Ok(base.join("isobar").join(name))
}

fn beside() -> anyhow::Result<PathBuf> {
    let agent = std::env::current_exe()
        .context("where this program is")?
        .with_file_name("isobar-agent");
    if !agent.exists() {
        bail!(
            "there is no {}: build it with `cargo xtask dist` or name one with --agent",
            agent.display()
        );
    }
    Ok(agent)
}
