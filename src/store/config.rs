//! The `[store]` part of the config file.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::encryption::ServerSideEncryption;

/// Where packs may lie: the classes of storage that answer at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PackStorageClass {
    /// Cheaper to keep, dearer to read.
    StandardIa,
    /// The store moves what is not read.
    IntelligentTiering,
    /// Cheapest to keep, dearest to read.
    GlacierIr,
}

impl PackStorageClass {
    /// As S3 writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StandardIa => "STANDARD_IA",
            Self::IntelligentTiering => "INTELLIGENT_TIERING",
            Self::GlacierIr => "GLACIER_IR",
        }
    }
}

/// How to reach the store. All of it has a default; AWS itself usually needs none of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "switches, as people write them")]
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
    /// Certificate, with those of its authorities, that the server may ask of us, as PEM.
    pub client_certificate: Option<PathBuf>,
    /// Its private key, as PEM.
    pub client_key: Option<PathBuf>,
    /// Account number that must own the bucket.
    pub expected_bucket_owner: Option<String>,
    /// Use the endpoints of AWS with validated cryptography.
    pub fips: bool,
    /// Use the endpoints of AWS that IPv6 reaches, too.
    pub dual_stack: bool,
    /// Use AWS's transfer acceleration, which the bucket must allow.
    pub accelerate: bool,
    /// Pay for requests to a bucket of somebody else.
    pub request_payer: bool,
    /// Storage class of packs; everything else is in the bucket's default one.
    pub storage_class: Option<PackStorageClass>,
    /// Accept a store without conditional writes, for a volume that only one machine ever mounts.
    pub single_machine: bool,
    /// How long one operation may take with all its retries, plus one second for each 64 KiB sent.
    #[serde(with = "duration")]
    pub deadline: Duration,
    /// The store's own encryption, beneath ours.
    pub server_side_encryption: ServerSideEncryption,
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
            client_certificate: None,
            client_key: None,
            expected_bucket_owner: None,
            fips: false,
            dual_stack: false,
            accelerate: false,
            request_payer: false,
            storage_class: None,
            single_machine: false,
            deadline: Duration::from_mins(1),
            server_side_encryption: ServerSideEncryption::default(),
        }
    }
}

impl StoreConfig {
    /// What does not go together, in words.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |text: &str| Err(format!("[store]: {text}"));
        if self.client_certificate.is_some() != self.client_key.is_some() {
            return wrong("client_certificate and client_key go together; set both or neither");
        }
        if let Some(owner) = &self.expected_bucket_owner
            && !(owner.len() == 12 && owner.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return wrong("expected_bucket_owner is the number of an account, 12 digits");
        }
        if self.accelerate && self.path_style == Some(true) {
            return wrong("accelerate does not go with path_style = true; leave one out");
        }
        if self.accelerate && self.fips {
            return wrong(
                "accelerate does not go with fips: it has no such endpoints; leave one out",
            );
        }
        self.check_endpoint(self.endpoint.as_deref())?;
        self.server_side_encryption.check()
    }

    /// Whether the settings for AWS's own endpoints go with an endpoint from somewhere else.
    pub(super) fn check_endpoint(&self, endpoint: Option<&str>) -> Result<(), String> {
        let Some(endpoint) = endpoint else { return Ok(()) };
        for (key, is_set) in
            [("fips", self.fips), ("dual_stack", self.dual_stack), ("accelerate", self.accelerate)]
        {
            if is_set {
                return Err(format!(
                    "[store]: {key} chooses among the endpoints of AWS and does not go with the \
                     endpoint {endpoint}; leave one out (an endpoint may also come from \
                     AWS_ENDPOINT_URL or the profile)"
                ));
            }
        }
        Ok(())
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
            client_certificate = "/c.pem"
            client_key = "/k.pem"
            expected_bucket_owner = "123456789012"
            fips = true
            dual_stack = true
            accelerate = true
            request_payer = true
            storage_class = "GLACIER_IR"
            [server_side_encryption]
            mode = "sse-kms"
            kms_key_id = "alias/drive"
            bucket_key = true
            key_file = "/k"
            previous_key_file = "/p"
            allow_http_on_loopback = true
            encryption_context = { drive = "work" }
            "#,
        )
        .unwrap();
        assert_eq!(config.deadline, Duration::from_mins(2));
        assert_eq!(config.path_style, Some(true));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<StoreConfig>(&text).unwrap(), config);
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for (text, words) in [
            ("accelerate = true\npath_style = true", ["accelerate", "path_style"]),
            ("accelerate = true\nendpoint = 'https://x'", ["accelerate", "https://x"]),
            ("fips = true\nendpoint = 'https://x'", ["fips", "https://x"]),
            ("dual_stack = true\nendpoint = 'https://x'", ["dual_stack", "https://x"]),
            ("fips = true\naccelerate = true", ["fips", "accelerate"]),
            ("client_key = '/k'", ["client_certificate", "client_key"]),
            ("expected_bucket_owner = 'me'", ["expected_bucket_owner", "12 digits"]),
            ("server_side_encryption.mode = 'sse-c'", ["server_side_encryption", "key_file"]),
        ] {
            let said = toml::from_str::<StoreConfig>(text).unwrap().check().unwrap_err();
            assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
        }
        for text in ["", "fips = true\ndual_stack = true", "accelerate = true\ndual_stack = true"] {
            assert_eq!(toml::from_str::<StoreConfig>(text).unwrap().check(), Ok(()), "{text}");
        }
    }

    #[test]
    fn storage_classes_that_must_be_thawed_first_are_refused() {
        for name in ["STANDARD_IA", "INTELLIGENT_TIERING", "GLACIER_IR"] {
            let config: StoreConfig = toml::from_str(&format!("storage_class = '{name}'")).unwrap();
            assert_eq!(config.storage_class.map(PackStorageClass::name), Some(name));
        }
        for name in ["GLACIER", "DEEP_ARCHIVE", "standard_ia"] {
            assert!(toml::from_str::<StoreConfig>(&format!("storage_class = '{name}'")).is_err());
        }
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
