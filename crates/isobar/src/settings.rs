//! Settings of `isobar serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;
use clap::{ArgMatches, Command};
use isobar_bmc::address::AddressPolicy;
use isobar_boot::Timing;
use serde::Deserialize;

use crate::options::Kind::{List, Number, Section, Switch, Text};
use crate::options::{self, setting};

/// Read when it is there and no other is named.
const DEFAULT_CONFIG: &str = "/etc/isobar/isobar.toml";

const TABLE: options::Settings = options::Settings {
    prefix: "ISOBAR",
    rows: &[
        setting(
            "data-dir",
            Text,
            "DIR",
            "Everything that is kept: database, keys, blobs [default: /var/lib/isobar]",
        ),
        setting(
            "api-listen",
            Text,
            "ADDR:PORT",
            "REST API, TLS ([::]:8092 for IPv6 and IPv4) [default: 0.0.0.0:8092]",
        ),
        setting(
            "file-listen",
            Text,
            "ADDR:PORT",
            "File plane, HTTP and HTTPS, read by BMCs [default: 0.0.0.0:8091]",
        ),
        setting(
            "file-tls-listen",
            Text,
            "ADDR:PORT",
            "The file plane once more, on a port of its own for HTTPS images, such as 0.0.0.0:443 [default: none]",
        ),
        setting(
            "file-tls-cert",
            Text,
            "FILE",
            "Certificate chain of the file plane, PEM [default: the API's]",
        ),
        setting("file-tls-key", Text, "FILE", "Its private key, PEM"),
        setting(
            "nfs-listen",
            Text,
            "ADDR:PORT",
            "Boot images by NFS version 3, read-only, for BMCs that take nothing else: 0.0.0.0:2049 [default: none]",
        ),
        setting(
            "nfs-portmap-listen",
            Text,
            "ADDR:PORT",
            "Portmapper of nfs-listen, which most BMCs ask first: 0.0.0.0:111 [default: none]",
        ),
        setting(
            "tls-cert",
            Text,
            "FILE",
            "Certificate chain of your own, PEM [default: one is made at first start]",
        ),
        setting("tls-key", Text, "FILE", "Its private key, PEM"),
        setting(
            "tls-names",
            List,
            "NAME,...",
            "Further host names and addresses for the certificate that is made at first start",
        ),
        setting(
            "address-for-bmc",
            Text,
            "ADDR|URL",
            "How BMCs reach the file plane [default: the address that routes toward the BMC]",
        ),
        setting(
            "address-for-machine",
            Text,
            "ADDR",
            "How machines reach this server [default: the address that routes toward the machine]",
        ),
        setting(
            "content-pack",
            Switch,
            "true|false",
            "Our own bootenvs, stages, workflows and params [default: true]",
        ),
        setting(
            "content-layers",
            List,
            "PATH,...",
            "Further read-only content: YAML or JSON files, or folders TYPE/KEY.yaml",
        ),
        setting(
            "plugin-dir",
            Text,
            "DIR",
            "Plugin providers: programs that offer actions (docs/plugins.md)",
        ),
        setting(
            "ipmi-provider",
            Switch,
            "true|false",
            "Offer the actions of the built-in provider ipmi [default: true]",
        ),
        setting(
            "server-id",
            Text,
            "NAME",
            "Name of this server, the member id of `info`",
        ),
        setting(
            "initial-prefs",
            Section,
            "KEY=VALUE,...",
            "First start only: preferences; those that are secret better in the file, section [initial-prefs]",
        ),
        setting(
            "shadow",
            Switch,
            "true|false",
            "Shadow mode: plan and read everything, send nothing that changes a BMC [default: false]",
        ),
        setting(
            "strict-bmc-address",
            Switch,
            "true|false",
            "Serve a boot image to the address of its BMC alone [default: false: served and flagged]",
        ),
        setting(
            "bmc-networks",
            List,
            "CIDR,...",
            "Networks in which BMCs may be addressed [default: any]",
        ),
        setting(
            "open-isos",
            Switch,
            "true|false",
            "Serve dynamic_isos/UUID/BOOTENV/boot.iso on the file plane to anybody [default: false]",
        ),
        setting(
            "password-file",
            Text,
            "FILE",
            "First start only: password of rocketskates, first line [default: a random one]",
        ),
        setting(
            "timing",
            Section,
            "KEY=SECONDS,...",
            "Deadlines and pauses of boots, section [timing] of the file: first_read_s=900,agent_s=300",
        ),
        setting(
            "max-connections",
            Number,
            "N",
            "API connections at once [default: 4096]",
        ),
        setting(
            "audit-days",
            Number,
            "N",
            "Days that rows of the audit log are kept [default: 366]",
        ),
        setting(
            "audit-rows",
            Number,
            "N",
            "Rows of users in the audit log; of programs half, of refusals an eighth as many on top [default: 1000000]",
        ),
        setting(
            "log-level",
            Text,
            "LEVEL",
            "error, warn, info, debug, trace, or a filter such as info,isobar_boot=debug [default: info]",
        ),
        setting(
            "log-format",
            Text,
            "text|json",
            "Form of the log on standard error [default: text]",
        ),
    ],
};

/// The first row alone.
const DATA_DIR: options::Settings = options::Settings {
    rows: TABLE.rows.split_at(1).0,
    ..TABLE
};

/// All settings, with their defaults.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    pub(crate) api_listen: SocketAddr,
    pub(crate) file_listen: SocketAddr,
    pub(crate) file_tls_listen: Option<SocketAddr>,
    pub(crate) file_tls_cert: Option<PathBuf>,
    pub(crate) file_tls_key: Option<PathBuf>,
    pub(crate) nfs_listen: Option<SocketAddr>,
    pub(crate) nfs_portmap_listen: Option<SocketAddr>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) tls_names: Vec<String>,
    pub(crate) address_for_bmc: Option<String>,
    pub(crate) address_for_machine: Option<String>,
    pub(crate) content_pack: bool,
    pub(crate) content_layers: Vec<PathBuf>,
    pub(crate) plugin_dir: Option<PathBuf>,
    pub(crate) ipmi_provider: bool,
    pub(crate) server_id: String,
    pub(crate) initial_prefs: toml::Table,
    pub(crate) shadow: bool,
    pub(crate) strict_bmc_address: bool,
    pub(crate) bmc_networks: AddressPolicy,
    pub(crate) open_isos: bool,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) timing: Timing,
    pub(crate) max_connections: usize,
    pub(crate) audit_days: u64,
    pub(crate) audit_rows: u64,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/isobar".into(),
            api_listen: SocketAddr::from(([0, 0, 0, 0], 8092)),
            file_listen: SocketAddr::from(([0, 0, 0, 0], 8091)),
            file_tls_listen: None,
            file_tls_cert: None,
            file_tls_key: None,
            nfs_listen: None,
            nfs_portmap_listen: None,
            tls_cert: None,
            tls_key: None,
            tls_names: Vec::new(),
            address_for_bmc: None,
            address_for_machine: None,
            content_pack: true,
            content_layers: Vec::new(),
            plugin_dir: None,
            ipmi_provider: true,
            server_id: String::new(),
            initial_prefs: toml::Table::new(),
            shadow: false,
            strict_bmc_address: false,
            bmc_networks: AddressPolicy::default(),
            open_isos: false,
            password_file: None,
            timing: Timing::default(),
            max_connections: 4096,
            audit_days: 366,
            audit_rows: 1_000_000,
            log_level: "info".into(),
            log_format: LogFormat::Text,
        }
    }
}

/// The command `serve`.
pub(crate) fn command() -> Command {
    Command::new("serve")
        .about("Run the server: REST API, file plane and boots")
        .args(TABLE.args(Some(DEFAULT_CONFIG)))
        .after_help(
            "An option wins over its environment variable, that over the file, that over the default.\n\n\
             Examples:\n  \
             isobar serve\n  \
             isobar serve --data-dir ./data --api-listen 127.0.0.1:8092 --file-listen 127.0.0.1:8091\n  \
             isobar serve --tls-cert /etc/ssl/isobar.pem --tls-key /etc/ssl/private/isobar.key\n  \
             ISOBAR_LOG_FORMAT=json isobar serve --strict-bmc-address --bmc-networks 10.9.0.0/16\n\n\
             The first start makes the user rocketskates and writes its password to DATA-DIR/rocketskates.password.",
        )
}

impl Settings {
    /// Settings from options, environment and file.
    ///
    /// # Errors
    /// As [`options::Settings::read`].
    pub(crate) fn from_matches(matches: &ArgMatches) -> anyhow::Result<Self> {
        let settings: Self = TABLE.read(matches, Some(DEFAULT_CONFIG))?;
        if settings.tls_cert.is_some() != settings.tls_key.is_some() {
            bail!("tls-cert and tls-key go together: only one of them is set");
        }
        if settings.file_tls_cert.is_some() != settings.file_tls_key.is_some() {
            bail!("file-tls-cert and file-tls-key go together: only one of them is set");
        }
        if settings.nfs_portmap_listen.is_some() && settings.nfs_listen.is_none() {
            bail!("nfs-portmap-listen tells where nfs-listen is: set that too");
        }
        Ok(settings)
    }

    /// Options of the commands that only have to know where the data directory is.
    pub(crate) fn data_dir_args() -> impl Iterator<Item = clap::Arg> {
        DATA_DIR.args(Some(DEFAULT_CONFIG))
    }

    /// The data directory from those options, environment and file.
    ///
    /// # Errors
    /// As [`options::Settings::read`].
    pub(crate) fn data_dir_of(matches: &ArgMatches) -> anyhow::Result<PathBuf> {
        let settings: Self = DATA_DIR.read(matches, Some(DEFAULT_CONFIG))?;
        Ok(settings.data_dir)
    }

    /// The initial preferences as texts.
    pub(crate) fn initial_prefs(&self) -> Vec<(String, String)> {
        let text = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.initial_prefs
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect()
    }

    /// [`Settings::from_matches`] of a command line without the program's name.
    #[cfg(test)]
    fn parse(args: &[&str]) -> anyhow::Result<Self> {
        let args = std::iter::once("serve").chain(args.iter().copied());
        Self::from_matches(&command().try_get_matches_from(args)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn the_table_and_the_struct_have_the_same_settings() {
        options::check_table::<Settings>(TABLE, |name| match name {
            "log-format" => Some("json"),
            "api-listen" | "file-listen" | "file-tls-listen" | "nfs-listen" | "nfs-portmap-listen" => Some("[::1]:0"),
            "bmc-networks" => Some("10.0.0.0/8"),
            _ => None,
        });
    }

    #[test]
    fn an_option_wins_over_the_file_and_the_file_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("isobar.toml");
        std::fs::write(
            &file,
            "data-dir = '/srv/a'\ncontent-pack = false\nbmc-networks = ['10.0.0.0/8']\nmax-connections = 5\n",
        )
        .unwrap();
        let config = format!("--config={}", file.display());
        let settings = Settings::parse(&[&config, "--data-dir", "/srv/b"]).unwrap();
        assert_eq!(settings.data_dir, Path::new("/srv/b"));
        assert!(!settings.content_pack);
        assert_eq!(settings.bmc_networks.allowed.len(), 1);
        assert_eq!(settings.max_connections, 5);
        assert_eq!(settings.file_listen.port(), 8091);
        let lists = Settings::parse(&[&config, "--content-pack", "--bmc-networks", "10.1.0.0/16,10.2.0.0/16"]).unwrap();
        assert!(lists.content_pack);
        assert_eq!(lists.bmc_networks.allowed.len(), 2);
    }

    #[test]
    fn a_section_is_laid_over_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("isobar.toml");
        std::fs::write(&file, "[timing]\nagent_s = 7\nfirst_read_s = 8\n").unwrap();
        let config = format!("--config={}", file.display());
        let timing = Settings::parse(&[&config, "--timing", "first_read_s=0.5,heartbeat_s=2"])
            .unwrap()
            .timing;
        assert_eq!((timing.agent_s, timing.first_read_s, timing.heartbeat_s), (7.0, 0.5, 2));
        let error = Settings::parse(&["--timing", "no_such_s=1"]).unwrap_err();
        assert!(format!("{error:#}").contains("no_such_s"), "{error:#}");
    }

    #[test]
    fn mistakes_name_the_setting() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("isobar.toml");
        std::fs::write(&file, "data-dri = '/srv/a'\n").unwrap();
        let text = |args: &[&str]| format!("{:#}", Settings::parse(args).unwrap_err());
        let unknown = text(&[&format!("--config={}", file.display())]);
        assert!(
            unknown.contains("isobar.toml") && unknown.contains("data-dri"),
            "{unknown}"
        );
        assert!(text(&["--content-pack=maybe"]).contains("content-pack"));
        assert!(text(&["--max-connections", "many"]).contains("ISOBAR_MAX_CONNECTIONS"));
        assert!(text(&["--api-listen", "nowhere"]).contains("api-listen"));
        assert!(text(&["--tls-cert", "a.pem"]).contains("tls-key"));
        assert!(text(&["--config", "/nowhere/x.toml"]).contains("/nowhere/x.toml"));
    }

    #[test]
    fn the_manual_has_every_setting_and_its_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let manual = std::fs::read_to_string(path).unwrap();
        let cells: Vec<Vec<&str>> = manual
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let row = |name: &str| {
            let name = format!("`{name}`");
            cells.iter().find(|row| row[0].split(", ").any(|cell| cell == name))
        };
        for setting in TABLE.rows {
            assert!(row(setting.name).is_some(), "{} has no row", setting.name);
        }
        let timing = toml::Table::try_from(Timing::default()).unwrap();
        for (key, value) in &timing {
            let row = row(key).unwrap_or_else(|| panic!("{key} has no row"));
            let value = value.to_string();
            assert_eq!(row[1], value.trim_end_matches(".0"), "{key}");
        }
        let written = cells.iter().filter(|row| row[0].ends_with("_s`")).count();
        assert_eq!(
            written,
            timing.keys().filter(|key| key.ends_with("_s")).count(),
            "rows of no key"
        );
    }
}
