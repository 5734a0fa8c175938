//! Settings of a program: defaults < one TOML file < environment < flags.
//!
//! Environment variables are `GREPTIME__SECTION__KEY`. An unknown key is an error that names the nearest known
//! one: a misspelt setting that is silently ignored is found in production.

use std::path::Path;

use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub const ENV_PREFIX: &str = "GREPTIME__";

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("settings file {path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("{0}")]
    Invalid(String),
}

/// Loads `T`. `flags` are dotted keys with TOML values that were given on the command line, e.g.
/// `("http.address", "127.0.0.1:4000")`.
pub fn load<T>(file: Option<&Path>, flags: &[(String, String)]) -> Result<T, SettingsError>
where
    T: DeserializeOwned + Serialize + Default,
{
    let defaults = Value::serialize(T::default()).map_err(|error| SettingsError::Invalid(explain(error)))?;
    let mut figment = Figment::from(Serialized::defaults(T::default()));
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::File {
            path: path.display().to_string(),
            source,
        })?;
        figment = figment.merge(Toml::string(&text));
    }
    for (variable, text) in std::env::vars() {
        if let Some(name) = variable.strip_prefix(ENV_PREFIX) {
            let key = name.to_lowercase().replace("__", ".");
            let value = typed(&defaults, &key, &text);
            figment = figment.merge(Given {
                origin: format!("environment variable {variable}"),
                key,
                value,
            });
        }
    }
    for (key, text) in flags {
        let value = typed(&defaults, key, text);
        figment = figment.merge(Given {
            origin: format!("flag for {key}"),
            key: key.clone(),
            value,
        });
    }
    figment
        .extract()
        .map_err(|error| SettingsError::Invalid(explain(error)))
}

/// One value from outside of the file.
struct Given {
    origin: String,
    key: String,
    value: Value,
}

impl figment::Provider for Given {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        figment::providers::Serialized::default(&self.key, &self.value).data()
    }
}

/// A text as a value of the kind that the default has. Without a default it is a string: a password of digits is
/// no number.
fn typed(defaults: &Value, key: &str, text: &str) -> Value {
    match defaults.find_ref(key) {
        Some(Value::String(..) | Value::Empty(..)) | None => Value::from(text),
        Some(_) => text.parse().unwrap_or_else(|_| Value::from(text)),
    }
}

fn explain(error: figment::Error) -> String {
    error
        .into_iter()
        .map(|e| explain_one(&e))
        .collect::<Vec<_>>()
        .join("; ")
}

fn explain_one(error: &figment::Error) -> String {
    let mut section: Vec<&str> = error.path.iter().map(String::as_str).collect();
    let origin = error
        .metadata
        .as_ref()
        .map(|m| format!(" (from {})", m.name))
        .unwrap_or_default();
    if let figment::error::Kind::UnknownField(field, known) = &error.kind {
        // The path ends with the unknown field itself where the value came from a map.
        if section.last() == Some(&field.as_str()) {
            section.pop();
        }
        let name = section
            .iter()
            .copied()
            .chain([field.as_str()])
            .collect::<Vec<_>>()
            .join(".");
        let hint = nearest(field, known)
            .map(|k| format!(", did you mean `{k}`?"))
            .unwrap_or_default();
        return format!("unknown setting `{name}`{origin}{hint}");
    }
    format!("setting `{}`{origin}: {}", section.join("."), error.kind)
}

fn nearest<'a>(field: &str, known: &'a [&'static str]) -> Option<&'a str> {
    known
        .iter()
        .copied()
        .min_by_key(|k| strsim::damerau_levenshtein(field, k))
}

/// The settings in force, as a TOML file; secrets are left out by their types.
pub fn print<T: Serialize>(settings: &T) -> Result<String, SettingsError> {
    toml::to_string_pretty(settings).map_err(|e| SettingsError::Invalid(e.to_string()))
}

/// Durations as people write them (`30s`, `5m`), for `#[serde(with = "greptime_settings::duration")]`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text)
            .map_err(|e| D::Error::custom(format!("`{text}` is not a duration ({e}); write e.g. 30s or 5m")))
    }
}

/// Sizes as people write them (`64MiB`, `1GB`, `4096`), for `#[serde(with = "greptime_settings::size")]`.
pub mod size {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];

    /// `None` if the text is no size or does not fit 64 bits.
    pub fn parse(text: &str) -> Option<u64> {
        let text = text.trim();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|n| (n.trim(), *unit)))
            .unwrap_or((text, 1));
        number.parse::<u64>().ok()?.checked_mul(unit)
    }

    pub fn format(bytes: u64) -> String {
        let unit = UNITS[..4]
            .iter()
            .rev()
            .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
        unit.map_or(format!("{bytes}B"), |(suffix, unit)| {
            format!("{}{suffix}", bytes / unit)
        })
    }

    // `u64` by reference is what serde's `with` passes.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(from)? {
            Either::Number(bytes) => Ok(bytes),
            Either::Text(text) => parse(&text)
                .ok_or_else(|| D::Error::custom(format!("`{text}` is not a size; write e.g. 64MiB"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Http {
        address: String,
        #[serde(with = "duration")]
        timeout: Duration,
        #[serde(with = "size")]
        body_limit: u64,
        user: Option<String>,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct All {
        http: Http,
    }

    fn from_text(text: &str, flags: &[(String, String)]) -> Result<All, SettingsError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        load(Some(file.path()), flags)
    }

    #[test]
    fn flags_win_over_the_file_and_units_are_read() {
        let text = "[http]\naddress = \"a\"\ntimeout = \"1m 30s\"\nbody_limit = \"64MiB\"\n";
        let all = from_text(text, &[("http.address".into(), "0.0.0.0:4000".into())]).unwrap();
        assert_eq!(all.http.address, "0.0.0.0:4000");
        assert_eq!(all.http.timeout, Duration::from_secs(90));
        assert_eq!(all.http.body_limit, 64 << 20);
    }

    #[test]
    fn digits_are_text_where_the_setting_is_text() {
        let flags = [
            ("http.user", "12345"),
            ("http.address", "678"),
            ("http.body_limit", "1024"),
        ];
        let flags = flags.map(|(key, text)| (key.to_owned(), text.to_owned()));
        let all = from_text("", &flags).unwrap();
        assert_eq!(all.http.user.as_deref(), Some("12345"));
        assert_eq!((all.http.address.as_str(), all.http.body_limit), ("678", 1024));
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let error = from_text("[http]\nadress = \"a\"\n", &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("http.adress") && error.contains("`address`"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_unit_says_how_to_write_it() {
        let error = from_text("[http]\nbody_limit = \"many\"\n", &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("http.body_limit") && error.contains("64MiB"),
            "{error}"
        );
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let all = from_text("[http]\ntimeout = \"2s\"\nbody_limit = \"1KiB\"\n", &[]).unwrap();
        assert_eq!(from_text(&print(&all).unwrap(), &[]).unwrap(), all);
    }
}
