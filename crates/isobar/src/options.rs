//! Settings as a table: from one row come the option, the environment variable and the key in a TOML file.

use std::path::Path;

use anyhow::{Context, bail};
use clap::{Arg, ArgMatches};
use serde::de::DeserializeOwned;

/// Form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text; whatever reads the settings gives it a meaning.
    Text,
    /// `true` or `false`; the bare option means `true`.
    Switch,
    /// A whole number.
    Number,
    /// Texts between commas.
    List,
    /// `key=value` between commas: members of a section of the file, laid over what the file says.
    Section,
}

/// One setting: `--name`, `PREFIX_NAME`, `name = …`.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// What stands for the value in the help.
    pub(crate) value: &'static str,
    pub(crate) help: &'static str,
}

/// A row.
pub(crate) const fn setting(name: &'static str, kind: Kind, value: &'static str, help: &'static str) -> Setting {
    Setting {
        name,
        kind,
        value,
        help,
    }
}

/// A table of settings.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Begin of the environment variables: `ISOBAR`.
    pub(crate) prefix: &'static str,
    pub(crate) rows: &'static [Setting],
}

impl Settings {
    fn env(self, name: &str) -> String {
        format!("{}_{}", self.prefix, name.replace('-', "_").to_uppercase())
    }

    /// `--config` and one option for each row.
    pub(crate) fn args(self, default_config: Option<&str>) -> impl Iterator<Item = Arg> {
        let mut help = "TOML file with the settings below as keys".to_owned();
        if let Some(path) = default_config {
            help = format!("{help} [default: {path}, if it is there]");
        }
        let config = Arg::new("config")
            .long("config")
            .env(self.env("config"))
            .value_name("FILE")
            .help(help);
        let option = move |row: &'static Setting| {
            let arg = Arg::new(row.name)
                .long(row.name)
                .env(self.env(row.name))
                .hide_env_values(true)
                .value_name(row.value)
                .help(row.help);
            match row.kind {
                // `--x=false`, `--x`; never eats the next argument.
                Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                Kind::List | Kind::Section => arg.value_delimiter(',').num_args(1),
                Kind::Text | Kind::Number => arg.num_args(1),
            }
        };
        std::iter::once(config).chain(self.rows.iter().map(option))
    }

    /// Reads the file, lays environment and options over it.
    ///
    /// # Errors
    /// A file that cannot be read or has an unknown key, or a value of the wrong form: says which.
    pub(crate) fn read<T: DeserializeOwned>(
        self,
        matches: &ArgMatches,
        default_config: Option<&str>,
    ) -> anyhow::Result<T> {
        let named = matches.get_one::<String>("config").map(String::as_str);
        let mut table = match named.or(default_config.filter(|path| Path::new(path).exists())) {
            Some(path) => read_file::<T>(Path::new(path))?,
            None => toml::Table::new(),
        };
        for row in self.rows {
            let Some(values) = matches.get_many::<String>(row.name) else {
                continue;
            };
            let values: Vec<&str> = values.map(String::as_str).collect();
            let place = || format!("--{} (environment variable {})", row.name, self.env(row.name));
            let value = row.kind.parse(&values).with_context(place)?;
            // Alone first, so that the message names the setting.
            let mut alone = toml::Table::new();
            alone.insert(row.name.to_owned(), value.clone());
            alone.try_into::<T>().map(drop).with_context(place)?;
            match (table.get_mut(row.name), value) {
                (Some(toml::Value::Table(section)), toml::Value::Table(members)) => section.extend(members),
                (_, value) => {
                    table.insert(row.name.to_owned(), value);
                }
            }
        }
        table.try_into().context("the settings do not fit")
    }
}

impl Kind {
    fn parse(self, values: &[&str]) -> anyhow::Result<toml::Value> {
        let text = values.first().copied().unwrap_or_default();
        Ok(match self {
            Kind::Text => toml::Value::String(text.to_owned()),
            Kind::Number => toml::Value::Integer(text.parse().with_context(|| format!("{text} is no whole number"))?),
            Kind::Switch => toml::Value::Boolean(match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => true,
                "false" | "no" | "off" | "0" => false,
                _ => bail!("{text} is neither true nor false"),
            }),
            Kind::Section => {
                let member = |pair: &&str| {
                    let (key, value) = pair
                        .split_once('=')
                        .with_context(|| format!("{pair} is not key=value"))?;
                    let number = value.parse().map(toml::Value::Integer);
                    let number = number.or_else(|_| value.parse().map(toml::Value::Float));
                    let value = number.unwrap_or_else(|_| toml::Value::String(value.to_owned()));
                    Ok((key.trim().to_owned(), value))
                };
                let pairs = values.iter().filter(|v| !v.is_empty()).map(member);
                toml::Value::Table(pairs.collect::<anyhow::Result<_>>()?)
            }
            Kind::List => toml::Value::Array(
                values
                    .iter()
                    .filter(|v| !v.is_empty())
                    .map(|v| toml::Value::String((*v).to_owned()))
                    .collect(),
            ),
        })
    }
}

fn read_file<T: DeserializeOwned>(path: &Path) -> anyhow::Result<toml::Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let table: toml::Table = text
        .parse()
        .with_context(|| format!("{} is not TOML", path.display()))?;
    // Alone first, so that the message names the file.
    table
        .clone()
        .try_into::<T>()
        .map(drop)
        .with_context(|| format!("{} does not fit", path.display()))?;
    Ok(table)
}

/// Checks that a table and the type that it is read into have the same settings.
#[cfg(test)]
pub(crate) fn check_table<T: DeserializeOwned + serde::Serialize>(
    table: Settings,
    sample: impl Fn(&str) -> Option<&'static str>,
) {
    #![allow(clippy::unwrap_used)]
    let mut all = toml::Table::new();
    for row in table.rows {
        let text = sample(row.name).unwrap_or(match row.kind {
            Kind::Switch => "true",
            Kind::Number => "7",
            Kind::Section => "",
            Kind::Text | Kind::List => "x",
        });
        all.insert(row.name.to_owned(), row.kind.parse(&[text]).unwrap());
    }
    // Refused when a row is no member of the type.
    let read: T = all.try_into().unwrap();
    // And the other way round.
    let members = toml::Table::try_from(&read).unwrap();
    for member in members.keys() {
        assert!(
            table.rows.iter().any(|row| row.name == member),
            "{member} has no option"
        );
    }
}
