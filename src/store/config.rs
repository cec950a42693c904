//! The `[store]` part of the config file.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How to reach the store. All of it has a default; AWS itself usually needs none of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Address of an S3 server other than AWS, such as `https://s3.example.com`. Without it the
    /// SDK's own settings count (`AWS_ENDPOINT_URL`, the profile).
    pub endpoint: Option<String>,
    /// Region of the bucket. Without it the SDK's own settings count, then `us-east-1`.
    pub region: Option<String>,
    /// Named profile of the AWS configuration files.
    pub profile: Option<String>,
    /// Bucket in the path instead of the host name. Without it: yes if there is an endpoint.
    pub path_style: Option<bool>,
    /// Allow plain http to another machine. Content is sealed, but credentials' signatures and
    /// the access pattern would be open to the network.
    pub allow_http: bool,
    /// Certificates to trust besides the machine's own, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Accept a store without conditional writes, for a volume that only one machine ever mounts.
    pub single_machine: bool,
    /// How long one operation may take with all its retries, plus one second for each 64 KiB sent.
    #[serde(with = "duration")]
    pub deadline: Duration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            profile: None,
            path_style: None,
            allow_http: false,
            ca_file: None,
            single_machine: false,
            deadline: Duration::from_mins(1),
        }
    }
}

/// Durations as people write them: `"60 s"`, `"2 min"`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Past the end of the clock a sum of times would overflow; nobody waits for a day.
    const MAX: Duration = Duration::from_hours(24);

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let value = humantime::parse_duration(&text).map_err(|error| {
            D::Error::custom(format!("{text:?} is not a duration such as \"60 s\": {error}"))
        })?;
        if value.is_zero() {
            return Err(D::Error::custom("a duration of nothing would fail every request"));
        }
        if value > MAX {
            return Err(D::Error::custom(format!("{text:?} is more than a day, the most")));
        }
        Ok(value)
    }

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_the_default() {
        let config: StoreConfig = toml::from_str("").unwrap();
        assert_eq!(config, StoreConfig::default());
        assert_eq!(config.deadline, Duration::from_mins(1));
        assert!(!config.allow_http && !config.single_machine);
    }

    #[test]
    fn every_key_is_read() {
        let config: StoreConfig = toml::from_str(
            r#"
            endpoint = "https://s3.example.com"
            region = "eu-central-1"
            profile = "work"
            path_style = true
            allow_http = true
            ca_file = "/etc/ssl/own.pem"
            single_machine = true
            deadline = "2 min"
            "#,
        )
        .unwrap();
        assert_eq!(config.deadline, Duration::from_mins(2));
        assert_eq!(config.path_style, Some(true));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<StoreConfig>(&text).unwrap(), config);
    }

    #[test]
    fn unknown_keys_and_bad_durations_are_refused() {
        let error = |text: &str| toml::from_str::<StoreConfig>(text).unwrap_err().to_string();
        assert!(error("endpont = 'x'").contains("endpont"));
        assert!(error("deadline = 'soon'").contains("soon"));
        assert!(error("deadline = '0 s'").contains("nothing"));
        for long in ["25 h", "18446744073709551615 s"] {
            assert!(error(&format!("deadline = '{long}'")).contains("a day"), "{long}");
        }
    }
}
